"""Connections of clients: of which pool each is, how many there are, and how much of a header one may send.

aiohttp bounds a line of a header and the number of lines, not their sum, and no connections at all. Whoever reaches a
pool's Service reaches this, with no key.
"""

import asyncio
import json
import logging
from http import HTTPStatus
from typing import Any

from aiohttp import http_exceptions, web

from vernal_waker import metrics
from vernal_waker.routes import PoolName

log = logging.getLogger(__name__)

HEADER_BYTES = 64 << 10
"""Of one request, as a worker takes them; and of all requests that a client sends ahead of an answer."""


class Places:
    """At most `limit` connections: a newcomer gets the place of the one that has done nothing for longest."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in no request; the one that is so for longest first

    def enter(self, connection: "Connection") -> bool:
        """Whether there is a place for it."""
        if len(self._open) >= self.limit and not self._make_room():
            return False
        self._open.add(connection)
        self._idle[connection] = None
        return True

    def busy(self, connection: "Connection") -> None:
        self._idle.pop(connection, None)

    def idle(self, connection: "Connection") -> None:
        if connection in self._open:
            self._idle[connection] = None

    def leave(self, connection: "Connection") -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def _make_room(self) -> bool:
        if not self._idle:
            return False
        # Who has not taken the end of an answer yet is spared while there is another one.
        victim = next((one for one in self._idle if not one.unread), None) or next(iter(self._idle))
        self.leave(victim)
        victim.cut("Evicted")
        return True


class Connection(web.RequestHandler):
    """One client's."""

    def __init__(self, places: Places, pool: PoolName | None, manager: web.Server, **options: Any) -> None:
        """`pool`: whose port it came to when it was made. It stays that pool's, whoever has the port later."""
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self.pool = pool
        self._places = places
        self._ahead = 0  # bytes of headers that belong to no request that is being answered
        self._payload: Any = None  # of the request that came last
        self._answering = False

    @property
    def unread(self) -> bool:
        """Whether the client has not taken all that was sent."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    @property
    def ends(self) -> bool:
        """Whether the answer that is being made is the last one."""
        return self._close or self._force_close

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._places.enter(self):
            self._refuse(503, "Refused", "as many connections are open as may be: try again")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._places.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        body, before = self._payload, len(self._messages)
        in_header = body is None or body.is_eof()
        super().data_received(data)
        found = len(self._messages) > before
        if found:
            self._payload = self._messages[-1][1]
            if body is not None and not body.is_eof():  # the message is aiohttp's, of an error in the midst of it
                body.set_exception(web.RequestPayloadError("no HTTP"))
        if not in_header or (found and not before and not self._answering):
            return  # of a body; or a request that is answered next, of which `Front` sees how large its header is
        self._ahead += len(data)
        if self._ahead <= HEADER_BYTES or self.ends:
            return
        if before or self._answering:
            self.close()  # after the answer that is being made; the rest has not been begun
            self._messages.clear()
        else:
            self._refuse(431, "LargeHeader", f"the header has more than {HEADER_BYTES} bytes")

    def begin(self) -> None:
        """A request is being answered."""
        self._answering = True
        if not self._messages:
            self._ahead = 0
        self._places.busy(self)

    def end(self) -> None:
        self._answering = False
        self._places.idle(self)

    def cut(self, reason: str) -> None:
        """Close at once, whatever has not been sent."""
        metrics.CUT.labels(reason).inc()
        if self.transport is not None:
            self.transport.abort()

    def _refuse(self, status: int, reason: str, message: str) -> None:
        """Answer where there is no request, and close."""
        metrics.CUT.labels(reason).inc()
        if self.transport is not None:
            body = json.dumps(error_body(status, message)).encode()
            retry = "Retry-After: 1\r\n" if status == 503 else ""
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Of what is no HTTP: aiohttp would log the line, which may be a key, and its own traceback."""
        if not isinstance(exc, http_exceptions.HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        metrics.REQUESTS.labels("malformed").inc()
        log.debug("a request of %s is malformed: %s", request.remote, type(exc).__name__)
        response = web.json_response(error_body(400, f"the request is no HTTP: {type(exc).__name__}"), status=400)
        response.force_close()
        return response


def error_body(status: int, message: str) -> dict[str, Any]:
    """In the form of the OpenAI API's errors."""
    kind = "service_unavailable" if status in (502, 503) else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}
