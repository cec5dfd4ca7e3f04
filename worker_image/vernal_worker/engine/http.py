"""The HTTP server on the listening socket that the supervisor hands over."""

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn

from vernal_worker.control.protocol import Serving
from vernal_worker.engine import connections
from vernal_worker.engine.connections import Limits
from vernal_worker.engine.gate import Gate

_START_TIMEOUT = 30.0
_FLUSH_SECONDS = 5.0
"""For clients to take the rest of answers that are complete."""


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: in this tree signals mean nothing."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpServer:
    """Serves `gate` once. Its life: `listen`, `stop_listening`, `close`."""

    def __init__(self, gate: Gate, limits: Limits | None = None) -> None:
        self._gate = gate
        self.pool = connections.Pool(limits or Limits())
        config = uvicorn.Config(
            gate,
            http=connections.protocol(self.pool),  # type: ignore[arg-type]  # it is only ever called
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        config.load()  # imports the protocol modules: before the freeze, so that a thaw need not
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def server(self) -> uvicorn.Server:
        return self._server

    async def listen(self, fd: int, keep_alive: float) -> None:
        """Accept connections on `fd`, a listening TCP socket, which this server owns from here on, and keep those that
        do nothing for `keep_alive` seconds.

        Raises:
            RuntimeError: called twice, or the server stopped at once (its log says why).
        """
        listener = socket.socket(fileno=fd)
        if self._task is not None:
            listener.close()
            raise RuntimeError("already listening")
        self.pool.begin()
        self._server.config.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # it goes to call_later
        self._gate.serving = Serving.OPEN
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        async with asyncio.timeout(_START_TIMEOUT):
            while not self._server.started:
                if self._task.done():
                    raise RuntimeError("the HTTP server stopped while it started; see the engine's log")
                await asyncio.sleep(0.001)

    def leave(self, seconds_left: float) -> None:
        """Say on /health that requests in flight have `seconds_left`; go on accepting."""
        self._gate.abort_at = asyncio.get_running_loop().time() + seconds_left
        if self._gate.serving is Serving.OPEN:
            self._gate.serving = Serving.LEAVING

    def stop_listening(self) -> None:
        """Close the listener. Connections stay: on those, new requests are refused and old ones go on."""
        if self._gate.serving in (Serving.OPEN, Serving.LEAVING):
            self._gate.serving = Serving.DRAINING
            for server in self._server.servers:
                server.close()

    async def close(self, seconds: float) -> None:
        """Flush and close all connections, in `seconds` at most: then those whose clients do not read are reset."""
        self.stop_listening()
        if self._task is not None:
            self._server.should_exit = True
            _, running = await asyncio.wait([self._task], timeout=min(seconds, _FLUSH_SECONDS))
            if running:
                for connection in list(self._server.server_state.connections):
                    if connection.transport is not None:
                        connection.transport.abort()
                await asyncio.wait([self._task], timeout=max(0.0, min(1.0, seconds - _FLUSH_SECONDS)))
