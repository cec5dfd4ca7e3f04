"""The HTTP server with a small application, on real sockets."""

import asyncio
import http.client
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvloop
from patience import GUARD_SECONDS
from vernal_worker.engine.gate import Gate, Receive, Scope, Send
from vernal_worker.engine.http import HttpServer
from vernal_worker.engine.pool import Limits

STREAM, PLAIN, HALF, CHAT = "/v1/completions", "/v1/models", "/half", "/v1/messages"


class App:
    """Streams one event a 20th of a second, or answers once `finish` is set."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.ended: list[str] = []
        self.polls = 0
        """How often `/poll` has looked whether its client is there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        try:
            if scope["type"] == "websocket":
                await self._flood(send)
            elif path in (STREAM, CHAT):
                await self._stream(send)
            elif path == "/flood":
                headers = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                left = asyncio.ensure_future(self._left(receive))
                while not left.done():
                    await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
                    await asyncio.sleep(0)
            elif path == "/wait":
                await self._left(receive)
            elif path == "/poll":
                await self._poll(receive)
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            elif path == "/big":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": bytes(64 << 20)})
            elif path == "/echo":
                message = await receive()
                while message["type"] == "http.request" and message.get("more_body"):
                    message = await receive()
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            elif path == HALF:
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                await self.finish.wait()
            else:
                if path == "/slow":
                    await self.finish.wait()
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": path.encode()})
        finally:
            self.ended.append(path)

    async def _left(self, receive: Receive) -> None:
        """Until the client is gone."""
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _poll(self, receive: Receive) -> None:
        """Until `finish`, or the client is gone: as Starlette's `Request.is_disconnected`."""
        while not self.finish.is_set():
            asking = asyncio.ensure_future(receive())
            await asyncio.wait([asking], timeout=0.01)
            asking.cancel()
            if asking.done() and not asking.cancelled() and asking.result()["type"] == "http.disconnect":
                return
            self.polls += 1

    async def _flood(self, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "bytes": os.urandom(1 << 20)})
            await asyncio.sleep(0)

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        number = 0
        while not self.finish.is_set():
            await send({"type": "http.response.body", "body": b'data: {"n":%d}\n\n' % number, "more_body": True})
            number += 1
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


class Served:
    """A gate on a loopback port; its methods are called in its loop."""

    def __init__(self, limits: Limits | None = None, keep_alive: float = 60.0, body_bytes: int | None = None) -> None:
        self.loop = uvloop.new_event_loop()  # as in the engine
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.app: App = self.call(self._make_app)
        self.gate = Gate(self.app)
        self.http = HttpServer(self.gate, limits)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
            fd = listener.detach()
        self.wait(self.http.listen(fd, keep_alive, body_bytes))

    def _make_app(self) -> App:
        return App()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def run() -> Any:
            return function(*arguments)

        return self.wait(run())

    def wait(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(GUARD_SECONDS)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=GUARD_SECONDS)
