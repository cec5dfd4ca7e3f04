"""The outermost ASGI application: lets requests in or not, counts them, ends them, and checks the API key.

It knows ASGI and the two error formats of the APIs that vLLM serves, nothing of vLLM.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from vernal_contract import names

from vernal_worker.control.protocol import Serving

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

RESET = "vernal.reset"
"""Key in a scope: a function that drops the request's connection, whatever has not been sent."""

PROBES = names.PROBES
"""Neither counted as work nor guarded by the API key, as in vLLM."""

_ORDERLY = 0.75
"""Of the time for aborts, for errors to be read; the rest is for resets."""

_RETRY_AFTER = 1  # seconds; another worker behind the same Service takes the next attempt
_LEAVING = "this worker is shutting down; retry on another one"
_ABORTED = "this worker had to shut down before the answer was complete; retry on another one"


@dataclass(eq=False)
class _Request:
    path: str
    websocket: bool
    task: asyncio.Task[Any]
    aborted: bool = False
    started: bool = False
    event_stream: bool = False
    reset: Callable[[], None] | None = None  # drops the connection
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Gate:
    """Wraps `app`. All methods belong to the event loop's thread."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._keys: list[bytes] = []
        self._requests: set[_Request] = set()
        self.serving = Serving.CLOSED
        self.accepted_total = 0
        self.abort_at: float | None = None
        """When what is in flight will be ended, on the event loop's clock."""
        self._quiet_since: float | None = None  # on the event loop's clock

    @property
    def in_flight(self) -> int:
        """Requests that were let in and whose last byte has not been handed to the server."""
        return len(self._requests)

    def open(self) -> None:
        """Let requests in from now on."""
        self.serving = Serving.OPEN
        self._quiet_since = asyncio.get_running_loop().time()

    @property
    def idle_seconds(self) -> float:
        """How long nothing has been in flight; counted from `open`, so that a start is no idleness."""
        if self._requests or self._quiet_since is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._quiet_since

    def require_keys(self, keys: Iterable[str]) -> None:
        """From now on only requests with one of `keys` as bearer token are let in; with no keys, all are."""
        self._keys = [_digest(key) for key in keys]

    async def abort_all(self, seconds: float) -> tuple[int, int]:
        """End what is in flight with an error in the request's own format, and wait until that is written: `seconds` at
        most, since a client that does not read takes no error either. The connections of those are reset.

        Returns: how many requests were ended, and how many of them by a reset.
        """
        self.serving = Serving.ABORTED
        requests = list(self._requests)
        for request in requests:
            request.aborted = True
            request.task.cancel()
        late = await _not_ended(requests, seconds * _ORDERLY)
        for request in late:
            request.task.cancel()
            if request.reset is not None:
                request.reset()
        for request in await _not_ended(late, seconds * (1 - _ORDERLY)):
            self._requests.discard(request)  # it does not let itself be ended: nobody waits for it
        return len(requests), len(late)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = scope["type"] == "websocket"
        path = str(scope["path"])
        if path in PROBES:
            if path == "/health" and self.serving != Serving.OPEN:
                await _respond(send, 503, self._draining())
            else:
                await self._app(scope, receive, self._last(send))
        elif self._keys and scope.get("method") != "OPTIONS" and not self._authorized(scope):
            await _refuse(send, websocket, 401, "the API key is missing or wrong")
        elif self.serving not in (Serving.OPEN, Serving.LEAVING):
            await _refuse(send, websocket, 503, _LEAVING)
        else:
            await self._let_in(scope, receive, send, path, websocket)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, path: str, websocket: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        request = _Request(path, websocket, task, reset=scope.get(RESET))
        send = self._last(send)
        self._requests.add(request)
        self.accepted_total += 1

        async def tracked_send(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                request.started = True
                request.event_stream = any(
                    name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message.get("headers", [])
                )
            await send(message)

        try:
            await self._app(scope, receive, tracked_send)
        except asyncio.CancelledError:
            if not request.aborted:
                raise
            task.uncancel()
            await _end(request, send)
        finally:
            self._requests.discard(request)
            self._quiet_since = asyncio.get_running_loop().time()
            request.ended.set()

    def _last(self, send: Send) -> Send:
        """`send`, which says that an answer is the connection's last once the worker is leaving: so that pools of
        connections leave before the listener closes."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and self.serving is not Serving.OPEN:
                headers = [(name, value) for name, value in message.get("headers", []) if name != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        return sent

    def _draining(self) -> dict[str, Any]:
        left = 0.0 if self.abort_at is None else self.abort_at - asyncio.get_running_loop().time()
        return {
            "status": "draining",
            "message": _LEAVING,
            "seconds_left": round(max(0.0, left), 1),
            "in_flight": self.in_flight,
        }

    def _authorized(self, scope: Scope) -> bool:
        given = b""
        for name, value in scope.get("headers", []):
            if name == b"authorization":
                scheme, _, token = value.partition(b" ")
                given = token if scheme.lower() == b"bearer" else b""
        digest = _digest(given)
        found = False
        for key in self._keys:  # all of them: how long it takes must not tell which was close
            found |= hmac.compare_digest(digest, key)
        return found


async def _not_ended(requests: list[_Request], seconds: float) -> list[_Request]:
    """Those that have not ended in `seconds`."""
    if requests:
        waits = [asyncio.ensure_future(request.ended.wait()) for request in requests]
        await asyncio.wait(waits, timeout=seconds)
        for wait in waits:
            wait.cancel()
    return [request for request in requests if not request.ended.is_set()]


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _error(path: str, status: int, message: str) -> dict[str, Any]:
    kind = {401: "authentication_error", 503: "service_unavailable"}[status]
    if path.startswith("/v1/messages"):  # Anthropic's format
        return {
            "type": "error",
            "error": {"type": "overloaded_error" if status == 503 else kind, "message": message},
        }
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


async def _refuse(send: Send, websocket: bool, status: int, message: str) -> None:
    if websocket:  # closing before accepting makes the server answer the handshake with 403
        await send({"type": "websocket.close", "code": 1008 if status == 401 else 1013, "reason": message})
    else:
        await _respond(send, status, _error("", status, message), (names.HEADER_NOT_ACCEPTED.encode(), b"1"))


async def _respond(send: Send, status: int, body: dict[str, Any], *more: tuple[bytes, bytes]) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *more]
    if status == 503:
        headers += [(b"retry-after", str(_RETRY_AFTER).encode()), (b"connection", b"close")]
    elif status == 401:
        headers += [(b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _end(request: _Request, send: Send) -> None:
    """Close an aborted request so that its client sees an error and not a short answer."""
    if request.websocket:
        await send({"type": "websocket.close", "code": 1012, "reason": _ABORTED})
    elif not request.started:
        await _respond(send, 503, _error(request.path, 503, _ABORTED))
    elif request.event_stream:
        error = json.dumps(_error(request.path, 503, _ABORTED))
        named = request.path.startswith(("/v1/messages", "/v1/responses"))  # streams whose events have names
        text = f"event: error\ndata: {error}\n\n" if named else f"data: {error}\n\ndata: [DONE]\n\n"
        await send({"type": "http.response.body", "body": text.encode()})
    # Else a plain body is under way: left unfinished, the server cuts the connection and the client sees it
    # is short.
