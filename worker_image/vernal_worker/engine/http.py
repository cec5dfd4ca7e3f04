"""The HTTP server on the listening socket that the supervisor hands over."""

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn

from vernal_worker.control.protocol import Serving
from vernal_worker.engine.gate import Gate

_START_TIMEOUT = 30.0


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: in this tree signals mean nothing."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpServer:
    """Serves `gate` once. Its life: `listen`, `stop_listening`, `close`."""

    def __init__(self, gate: Gate, keep_alive: int) -> None:
        self._gate = gate
        config = uvicorn.Config(
            gate,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=keep_alive,
            server_header=False,
        )
        config.load()  # imports the protocol modules: before the freeze, so that a thaw need not
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def listen(self, fd: int) -> None:
        """Accept connections on `fd`, a listening TCP socket, which this server owns from here on.

        Raises:
            RuntimeError: called twice, or the server stopped at once (its log says why).
        """
        listener = socket.socket(fileno=fd)
        if self._task is not None:
            listener.close()
            raise RuntimeError("already listening")
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
        """Flush and close all connections, in `seconds` at most."""
        self.stop_listening()
        if self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task], timeout=seconds)
