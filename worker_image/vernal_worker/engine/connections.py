"""A client's connection: how slow its client may be, and how large what it sends.

uvicorn's protocol bounds none of that.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from vernal_contract import names

from vernal_worker.engine.gate import RESET
from vernal_worker.engine.pool import Limits, Pool

__all__ = ["Connection", "Limits", "Pool", "protocol"]

_CHECK_SECONDS = 5.0
_REFUSAL_SECONDS = 5.0
"""For a client to take a refusal, and to send what it was sending: closed at once, it may see a reset instead."""


class _Flow(FlowControl):
    """Reading that the application cannot begin again while it is held."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.held = False

    def hold(self) -> None:
        self.held = True
        self.pause_reading()

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with limits."""

    flow: _Flow

    def __init__(self, pool: Pool, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pool = pool
        self._limits = pool.limits
        self._refused = False
        self._upgraded = False
        self._in_header = True  # or before one
        self._header_bytes = 0
        self._header_count = 0
        self._arrived = b""  # what is being parsed
        self._body_bytes = 0  # as they came, with what frames them
        self._timer: asyncio.TimerHandle | None = None
        now = self.loop.time()
        self._header_began = self._last_byte = self._last_taken = self._checked = now
        self._quiet_since = now  # no request is being answered
        self._body_seconds = 0.0  # that the body's sender was waited for
        self._waiting = 0  # bytes that the client did not take
        self._running: RequestResponseCycle | None = (
            None  # of several requests in a row, the one that is being answered
        )

    # --- life ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._pool.opened(self, len(self.connections))
        self._check_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if (running := self._running) is not None and not running.response_complete:
            running.disconnected = True  # uvicorn tells only the last that came
            running.message_event.set()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._pool.gone(self, len(self.connections))

    @property
    def unread(self) -> bool:
        return self.transport.get_write_buffer_size() > 0

    def evict(self) -> None:
        if self._refused:
            self._pool.dropped(self)
            self.transport.abort()
        elif self._is_answering and not self._in_header:
            message = "this worker has too many connections, and the request's body did not come"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Evicted", message, self.cycle)
        else:
            self.drop("Evicted")

    def drop(self, reason: str) -> None:
        """Close without an answer: nothing is under way."""
        self._refused = True
        self._pool.dropped(self)
        self._pool.cut(reason)
        if self.unread:
            self.transport.abort()  # to close is to wait until all is taken
        else:
            self.transport.close()

    def turn_away(self) -> None:
        """Close, and say why."""
        self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Refused", "this worker has too many connections")

    def reset(self) -> None:
        """Close at once, whatever has not been sent."""
        self._refused = True
        self.transport.abort()

    def handle_websocket_upgrade(self) -> None:
        """From here on another protocol has the transport, and ours sees only whether the client reads."""
        if self._refused:
            return
        self._pool.busy(self)
        self._upgraded = True
        make, reset = self.ws_protocol_class, self.transport.abort
        assert make is not None

        def make_resettable(**options: Any) -> asyncio.Protocol:
            made: Any = make(**options)
            made.app = _with_reset(made.app, reset)
            return made  # type: ignore[no-any-return]

        self.ws_protocol_class = make_resettable  # type: ignore[assignment]
        super().handle_websocket_upgrade()

    # --- what a client sends ---

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._last_byte = self.loop.time()
        if self._in_header:
            if self._header_bytes == 0:
                self._header_began = self._last_byte
            self._header_bytes += len(data)
        else:
            self._body_bytes += len(data)
        self._arrived = data
        super().data_received(data)
        self._arrived = b""
        if self._refused or self._upgraded or self.transport.is_closing():
            return
        if self._in_header and self._header_bytes > self._limits.header_bytes:
            self._too_large()
        elif not self._in_header and self._body_bytes > self._limits.body_bytes:
            if self._is_answering:
                self._body_too_large(self.cycle)
            else:
                self.drop("LargeBody")

    def on_message_begin(self) -> None:
        if self._refused:
            return
        self._header_count = 0
        if self._header_bytes == 0:  # it came with the end of the message before
            self._header_bytes, self._header_began = 1, self._last_byte
        super().on_message_begin()
        self.scope[RESET] = self.reset  # type: ignore[literal-required]

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        if self._header_count <= self._limits.header_count:
            super().on_header(name, value)

    @property
    def _is_offer(self) -> bool:
        """Whether the message offers another protocol, which is declined (`_unsupported_upgrade_warning`)."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """httptools takes a message that offers another protocol, as HTTP/2 by Java's client, for one without a body,
        and what comes behind its header for that protocol. So it is read again, without the offer."""
        if self._refused:
            return
        if not self._is_offer:
            super()._unsupported_upgrade_warning()
            return
        if self._header_count > self._limits.header_count:
            self._too_large()
            return
        error = sys.exception()
        assert isinstance(error, httptools.HttpParserUpgrade)
        behind = self._arrived[error.args[0] :]
        version = self.parser.get_http_version().encode()
        header = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                header.append(b"connection: " + b",".join(one for one in value.split(b",") if not _is_upgrade(one)))
            elif name != b"upgrade":
                header.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self._arrived = b"\r\n".join([*header, b"\r\n"]) + behind
        super().data_received(self._arrived)

    def on_headers_complete(self) -> None:
        if self._is_offer:
            return
        self._in_header, self._body_bytes, self._body_seconds = False, 0, 0.0
        if self._refused:
            return
        if self._header_count > self._limits.header_count:
            self._too_large()
        elif len(self.pipeline) >= self._limits.pipeline:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "Pipelined", "too many requests wait on this connection")
        elif self._announced() > self._limits.body_bytes:
            self._body_too_large(None)
        else:
            self._pool.busy(self)
            super().on_headers_complete()

    def _announced(self) -> int:
        """The length of the body that follows, as far as the header says it; the parser has seen that it is one."""
        return max((int(value) for name, value in self.headers if name == b"content-length"), default=0)

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        super().on_body(body)
        if self.cycle is not None and self.cycle is not self._running and len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.hold()  # until it is this request's turn

    def on_message_complete(self) -> None:
        if self._is_offer:
            return
        self._in_header, self._header_bytes = True, 0
        self._pool.uploaded(self)
        if not self._refused:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if cycle is self.cycle and not self._in_header:
            self._pool.uploading(self)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._quiet_since = self.loop.time()
        self.flow.held = False
        super().on_response_complete()
        if self.transport.is_closing():
            self._pool.last_answer(self)
        elif self.pipeline:
            self.flow.pause_reading()
        elif self.timeout_keep_alive_task is not None:
            self._pool.idle(self)

    # --- limits ---

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _check_later(self) -> None:
        shortest = min(self._limits.header_seconds, self._limits.body_seconds, self._limits.write_seconds)
        seconds = min(_CHECK_SECONDS, shortest / 4, max(0.01, self.timeout_keep_alive / 4))
        self._timer = self.loop.call_later(seconds, self._check)

    def _check(self) -> None:
        now = self.loop.time()
        if not (self._refused or self._upgraded or self.transport.is_closing()):
            self._check_sender(now)
        self._check_reader(now)
        self._checked = now
        if not self.transport.is_closing() or self.unread:
            self._check_later()

    def _check_sender(self, now: float) -> None:
        limits = self._limits
        if not self._in_header:
            if self.flow.read_paused:
                self._last_byte = now  # that nothing comes is our doing
                return
            self._body_seconds += now - self._checked
            if self._is_slow(now) and self._is_answering:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "SlowBody", "the request's body did not end", self.cycle)
            elif self._is_slow(now):
                self.drop("SlowBody")
        elif self._is_answering:
            return
        elif self._header_bytes > 0:
            if now - self._header_began > limits.header_seconds:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "SlowHeader", "the request's header did not end")
        elif self._is_silent(now):
            self.drop("Silent")

    def _is_silent(self, now: float) -> bool:
        """uvicorn's own timer ends with the next byte, which may be the rest of a body that was answered before."""
        if self.timeout_keep_alive_task is not None or self.unread:
            return False
        return now - max(self._last_byte, self._quiet_since) > self.timeout_keep_alive

    def _is_slow(self, now: float) -> bool:
        allowed, came = self._limits.body_seconds, self._body_bytes
        if now - self._last_byte > allowed:
            return True
        return self._body_seconds > allowed and came < self._body_seconds * self._limits.body_rate

    def _check_reader(self, now: float) -> None:
        """Also of a connection that closes, which waits for its client to read."""
        waiting = self.transport.get_write_buffer_size()
        allowed = self._limits.write_seconds
        if self._refused:
            allowed = min(allowed, _REFUSAL_SECONDS)
        if waiting != self._waiting or (waiting == 0 and not self._refused):
            self._waiting, self._last_taken = waiting, now
        elif now - self._last_taken > allowed:
            if not self._refused:
                self._pool.cut("SlowReader")
            self.reset()

    def _too_large(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "LargeHeader",
            f"the header has more than {self._limits.header_bytes} bytes or {self._limits.header_count} fields",
        )

    def _body_too_large(self, cycle: RequestResponseCycle | None) -> None:
        message = f"the body has more than {self._limits.body_bytes} bytes"
        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "LargeBody", message, cycle, linger=True)

    def _refuse(
        self,
        status: HTTPStatus,
        reason: str,
        message: str,
        cycle: RequestResponseCycle | None = None,
        *,
        linger: bool = False,
    ) -> None:
        """Answer, and close; only close where an answer would stand in the midst of another one.

        Args:
            cycle: the request, if the application has it.
            linger: read on for a moment: the client sends a body and does not look.
        """
        self._refused = True
        self._pool.cut(reason)
        running = self._running
        if running is not None and not running.response_complete and (running is not cycle or running.response_started):
            busy = True
        else:
            busy = self.unread
        if busy or not linger:
            self._pool.dropped(self)
        if busy:
            self.transport.abort()
            return
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_answer(status, message))
        if linger:
            self._unset_keepalive_if_required()
            self._pool.busy(self)
            self._pool.idle(self)
            self.transport.write_eof()
            self.flow.held = False
            self.flow.resume_reading()
            self._waiting, self._last_taken = 0, self.loop.time()
        else:
            self.transport.close()


def _is_upgrade(word: bytes) -> bool:
    return word.strip().lower() == b"upgrade"


def _answer(status: HTTPStatus, message: str) -> bytes:
    error = {"message": message, "type": status.phrase, "param": None, "code": int(status)}
    body = json.dumps({"error": error}).encode()
    refused = f"retry-after: 1\r\n{names.HEADER_NOT_ACCEPTED}: 1\r\n"
    retry = refused if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
    )
    return head.encode() + body


def _with_reset(app: Callable[..., Awaitable[None]], reset: Callable[[], None]) -> Callable[..., Awaitable[None]]:
    async def called(scope: Any, receive: Any, send: Any) -> None:
        scope[RESET] = reset
        await app(scope, receive, send)

    return called


def protocol(pool: Pool) -> Callable[..., Connection]:
    """What uvicorn makes for each connection."""

    def make(*arguments: Any, **options: Any) -> Connection:
        return Connection(pool, *arguments, **options)

    return make
