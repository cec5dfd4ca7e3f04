"""The HTTP server on the listening socket that the supervisor hands over."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Generator
from dataclasses import replace
from importlib import import_module

import uvicorn

from vernal_worker.control.protocol import Serving
from vernal_worker.engine import connections
from vernal_worker.engine.connections import Connection
from vernal_worker.engine.gate import Gate
from vernal_worker.engine.pool import Limits, Pool

_logger = logging.getLogger(__name__)
_START_TIMEOUT = 30.0
_RETRY_SECONDS = 0.1
_FLUSH_SECONDS = 5.0
"""For clients to take the rest of answers that are complete."""


class _Server(uvicorn.Server):
    """uvicorn without signal handlers, since in this tree signals mean nothing, and with an accept loop of its own:
    the event loop's would take every connection that comes."""

    def __init__(self, config: uvicorn.Config, pool: Pool) -> None:
        super().__init__(config)
        self._pool = pool
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connecting: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        for listener in sockets or []:
            listener.setblocking(False)
            self._listeners.append(listener)
            self._accepting.append(asyncio.create_task(self._accept(listener)))

    def stop_accepting(self) -> None:
        """Close the listeners; whoever has connected by now is still taken."""
        for task in self._accepting:
            task.cancel()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                while len(self.server_state.connections) + len(self._connecting) < self._pool.limit:
                    self._take(listener.accept()[0])
            listener.close()
        self._accepting, self._listeners = [], []

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stop_accepting()
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                await self._accept_one(listener)
            except Exception:  # the worker must not go deaf
                _logger.exception("a connection could not be taken")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _accept_one(self, listener: socket.socket) -> None:
        await _readable(listener)
        room = await self._pool.room(lambda: len(self.server_state.connections))
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as error:  # no descriptors
            _logger.warning("no connection can be taken now: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)
            return
        await asyncio.shield(
            self._take(connection, turn_away=not room)
        )  # it is ours now, whatever becomes of this task

    def _take(self, connection: socket.socket, *, turn_away: bool = False) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._connect(connection, turn_away))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    async def _connect(self, connection: socket.socket, turn_away: bool) -> None:
        loop = asyncio.get_running_loop()

        def make() -> Connection:
            made = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )
            assert isinstance(made, Connection)
            return made

        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, made = await loop.connect_accepted_socket(make, connection)
        except OSError as error:  # it is gone
            _logger.debug("a connection ended before it began: %s", error)
            connection.close()
            return
        if turn_away:
            made.turn_away()


async def _readable(listener: socket.socket) -> None:
    """Until somebody wants to connect."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(listener, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(listener)


class HttpServer:
    """Serves `gate` once. Its life: `listen`, `stop_listening`, `close`."""

    def __init__(self, gate: Gate, limits: Limits | None = None) -> None:
        self._gate = gate
        self.pool = Pool(limits or Limits())
        config = uvicorn.Config(
            gate,
            http=connections.protocol(self.pool),  # type: ignore[arg-type]  # it is only ever called
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        config.load()  # imports the protocol modules: before the freeze, so that a thaw need not
        with contextlib.suppress(ImportError):
            import_module("anyio._backends._asyncio")  # the same, for what is streamed
        self._server = _Server(config, self.pool)
        self._task: asyncio.Task[None] | None = None

    @property
    def server(self) -> uvicorn.Server:
        return self._server

    async def listen(self, fd: int, keep_alive: float, body_bytes: int | None = None) -> None:
        """Accept connections on `fd`, a listening TCP socket, which this server owns from here on, and keep those that
        do nothing for `keep_alive` seconds. `body_bytes`: of a request; None for what the limits say.

        Raises:
            RuntimeError: called twice, or the server stopped at once (its log says why).
        """
        listener = socket.socket(fileno=fd)
        if self._task is not None:
            listener.close()
            raise RuntimeError("already listening")
        if body_bytes is not None:
            self.pool.limits = replace(self.pool.limits, body_bytes=body_bytes)
        self.pool.begin()
        self._server.config.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # it goes to call_later
        self._gate.open()
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
            self._server.stop_accepting()

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
