"""Clients' connections: how many, how long a client may be slow, how large its headers may be.

uvicorn's protocol bounds none of that. What is cut here is counted in `vernal_http_connections_closed_total`.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from prometheus_client import Counter, Gauge
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from vernal_contract import names

from vernal_worker import descriptors
from vernal_worker.engine.gate import RESET

_OWN_DESCRIPTORS = 256
"""Never given to clients: the control socket, vLLM's sockets to its processes, files, another log."""

_LOG_SECONDS = 10.0
_CHECK_SECONDS = 5.0
_ROOM_SECONDS = 0.02

_logger = logging.getLogger(__name__)
_closed = Counter("vernal_http_connections_closed", "Connections that the worker cut, and why.", ["reason"])
_open = Gauge("vernal_http_connections", "Connections of clients that are open.")


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, durations in seconds."""

    connections: int | None = None  # None: what the limit of descriptors leaves
    header_bytes: int = 64 << 10
    header_count: int = 256
    header_seconds: float = 20.0  # from a header's first byte to its last
    body_seconds: float = 60.0  # without a byte of a body that is not complete
    write_seconds: float = 300.0  # without a byte taken by a client whose answer waits
    grace_seconds: float = 1.0  # that a connection may do nothing though others wait for its place
    wait_seconds: float = 2.0  # that a newcomer waits for a place


class Pool:
    """The open connections of one server. All methods belong to the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.limit = limits.connections or descriptors.WANTED
        self._strangers: dict[Connection, float] = {}  # no whole header yet, and since when; the oldest first
        self._idle: dict[Connection, float] = {}  # between two requests, and since when; the longest idle first
        self._dropped: set[Connection] = set()  # not gone yet
        self._said: dict[str, float] = {}

    def begin(self) -> None:
        """Count what this process may open: before the first connection."""
        if self.limits.connections is None:
            spare = descriptors.raise_limit() - descriptors.in_use() - _OWN_DESCRIPTORS
            self.limit = max(16, spare)

    async def room(self, count: Callable[[], int]) -> bool:
        """Wait until one more connection may be taken beside the `count` that are open, if need be in the place of one
        that does nothing. A moment's grace is everybody's: who has just come had no chance to ask yet, and newcomers
        wait meanwhile where the kernel keeps them.

        Returns: False if all are busy, for longer than a newcomer should wait.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.wait_seconds
        while count() - len(self._dropped) >= self.limit:
            if (victim := self._victim(loop.time())) is not None:
                victim.drop("Evicted")
            elif loop.time() > deadline:
                return False
            else:
                await asyncio.sleep(_ROOM_SECONDS)
        return True

    def _victim(self, now: float) -> "Connection | None":
        for place in (self._strangers, self._idle):
            for connection, since in place.items():  # the first is the oldest
                if now - since >= self.limits.grace_seconds:
                    return connection
                break
        return None

    def opened(self, connection: "Connection", count: int) -> None:
        _open.set(count)
        self._strangers[connection] = asyncio.get_running_loop().time()

    def busy(self, connection: "Connection") -> None:
        self._strangers.pop(connection, None)
        self._idle.pop(connection, None)

    def idle(self, connection: "Connection") -> None:
        self._idle[connection] = asyncio.get_running_loop().time()

    def dropped(self, connection: "Connection") -> None:
        self.busy(connection)
        self._dropped.add(connection)

    def gone(self, connection: "Connection", count: int) -> None:
        _open.set(count)
        self.busy(connection)
        self._dropped.discard(connection)

    def cut(self, reason: str) -> None:
        """Count it, and say it, but not for each of a burst."""
        _closed.labels(reason).inc()
        now = time.monotonic()
        if now - self._said.get(reason, -_LOG_SECONDS) >= _LOG_SECONDS:
            self._said[reason] = now
            _logger.warning(
                "a client's connection was cut: %s; vernal_http_connections_closed_total counts them, limit is %d",
                reason,
                self.limit,
            )


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with limits."""

    def __init__(self, pool: Pool, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pool = pool
        self._limits = pool.limits
        self._refused = False
        self._in_header = True  # or before one
        self._header_bytes = 0
        self._header_count = 0
        self._timer: asyncio.TimerHandle | None = None
        now = self.loop.time()
        self._opened = self._header_began = self._last_byte = self._last_taken = now
        self._waiting = 0  # bytes that the client did not take
        self._running: RequestResponseCycle | None = (
            None  # of several requests in a row, the one that is being answered
        )

    # --- life ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
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

    def drop(self, reason: str) -> None:
        """Close without an answer: nothing is under way."""
        self._refused = True
        self._pool.dropped(self)
        self._pool.cut(reason)
        self.transport.close()

    def turn_away(self) -> None:
        """Close, and say why."""
        self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Refused", "this worker has too many connections")

    def reset(self) -> None:
        """Close at once, whatever has not been sent."""
        self._refused = True
        self.transport.abort()

    def handle_websocket_upgrade(self) -> None:
        self._pool.busy(self)
        if self._timer is not None:
            self._timer.cancel()
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
        super().data_received(data)
        if self._in_header and self._header_bytes > self._limits.header_bytes:
            self._too_large()

    def on_message_begin(self) -> None:
        if self._refused:
            return
        self._header_count = 0
        super().on_message_begin()
        self.scope[RESET] = self.reset  # type: ignore[literal-required]

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        if self._header_count <= self._limits.header_count:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_header = False
        if self._header_count > self._limits.header_count:
            self._too_large()
        if self._refused:
            return
        self._pool.busy(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_header, self._header_bytes = True, 0
        if not self._refused:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and not self.transport.is_closing():
            self._pool.idle(self)

    # --- limits ---

    def _check_later(self) -> None:
        shortest = min(self._limits.header_seconds, self._limits.body_seconds, self._limits.write_seconds)
        seconds = min(_CHECK_SECONDS, shortest / 4, max(0.01, self.timeout_keep_alive / 4))
        self._timer = self.loop.call_later(seconds, self._check)

    def _check(self) -> None:
        if self._refused or self.transport.is_closing():
            return
        now, limits = self.loop.time(), self._limits
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering:
            if self._header_bytes > 0 and self._in_header:
                if now - self._header_began > limits.header_seconds:
                    self._refuse(HTTPStatus.REQUEST_TIMEOUT, "SlowHeader", "the request's header did not end")
            elif self.cycle is None and now - self._opened > self.timeout_keep_alive:
                self.drop("Silent")
        elif self.cycle.more_body and not self.flow.read_paused and now - self._last_byte > limits.body_seconds:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "SlowBody", "the request's body did not end")
        self._check_reader(now)
        self._check_later()

    def _check_reader(self, now: float) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0 or waiting != self._waiting:
            self._waiting, self._last_taken = waiting, now
        elif now - self._last_taken > self._limits.write_seconds:
            self._pool.cut("SlowReader")
            self.reset()

    def _too_large(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "LargeHeader",
            f"the header has more than {self._limits.header_bytes} bytes or {self._limits.header_count} fields",
        )

    def _refuse(self, status: HTTPStatus, reason: str, message: str) -> None:
        self._refused = True
        self._pool.dropped(self)
        self._pool.cut(reason)
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started:
            self.transport.abort()
            return
        error = {"message": message, "type": status.phrase, "param": None, "code": int(status)}
        body = json.dumps({"error": error}).encode()
        refused = f"retry-after: 1\r\n{names.HEADER_NOT_ACCEPTED}: 1\r\n"
        retry = refused if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
        head = (
            f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def protocol(pool: Pool) -> Callable[..., Connection]:
    """What uvicorn makes for each connection."""

    def make(*arguments: Any, **options: Any) -> Connection:
        return Connection(pool, *arguments, **options)

    return make
