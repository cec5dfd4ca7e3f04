"""The engine's main process: loads vLLM, then does what the control socket says.

Started by the supervisor as `python -m vernal_worker.engine.main SPEC`, where SPEC is the JSON of
`vernal_worker.control.protocol.EngineSpec`. multiprocessing's spawn imports this module again in each child of
vLLM, as `__mp_main__`; what a child of ours needs is therefore set up at the end of this file.
"""

import asyncio
import logging
import multiprocessing
import os
import secrets
import sys
import traceback
from typing import TYPE_CHECKING

from vernal_contract import decoding

from vernal_worker.control import protocol
from vernal_worker.control.protocol import Answer, AnyCommand, Done, EngineSpec, Serving
from vernal_worker.engine import clean_metrics, process, warm

if TYPE_CHECKING:
    from vernal_worker.engine.api import ApiServer
    from vernal_worker.engine.gate import Gate
    from vernal_worker.engine.http import HttpServer
    from vernal_worker.engine.vllm_adapter import Engine

_logger = logging.getLogger("vernal_worker.engine")
_OUR_LOGGERS = ("vernal_worker", "uvicorn.error")
API_KEY_VARIABLE = "VLLM_API_KEY"


class _Commands:
    """Carries the control socket's commands out."""

    def __init__(self, engine: "Engine", gate: "Gate", http: "HttpServer", api: "ApiServer") -> None:
        self._engine, self._gate, self._http, self._api = engine, gate, http, api
        self.shutdown: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        """Set, to the seconds that it may take, when the engine was told to stop."""

    async def handle(self, command: AnyCommand, fds: list[int]) -> Answer:
        if isinstance(command, protocol.Listen):
            (fd,) = fds
            try:
                self._engine.check_awake()
            except RuntimeError:
                os.close(fd)
                raise
            clean_metrics.begin()
            self._watch_tracker()
            await self._http.listen(fd, command.keep_alive, command.body_bytes)
            return Done()
        for fd in fds:
            os.close(fd)
        match command:
            case protocol.GetStatus():
                return protocol.EngineStatus(
                    serving=self._gate.serving,
                    in_flight=self._gate.in_flight,
                    accepted_total=self._gate.accepted_total,
                    errored=self._engine.errored,
                    load=self._engine.load(self._gate.in_flight, self._gate.idle_seconds),
                    unfreezable=self._engine.unfreezable,
                )
            case protocol.RunCanary():
                return await self._engine.canary()
            case protocol.WarmUp():
                self._check_closed()
                took = await warm.run(self._engine.app, command.seconds)
                await self._engine.forget_grammars()
                return protocol.Warmed(seconds=took)
            case protocol.StoreWeights():
                self._check_closed()
                return protocol.Stored(ranks=await self._engine.store_weights(command.directory, command.piece))
            case protocol.Quiesce():
                self._check_closed()
                await self._engine.quiesce(command.weights)
            case protocol.Wake():
                await self._engine.wake(command.source)
            case protocol.Resume():
                await self._resume(command)
            case protocol.Leave():
                self._http.leave(command.seconds_left)
            case protocol.StopListening():
                self._http.stop_listening()
            case protocol.AbortAll():
                requests, reset = await self._gate.abort_all(command.seconds)
                return protocol.Aborted(requests=requests, reset=reset)
            case protocol.OpenApi():
                self._engine.check_awake()
                clean_metrics.begin()
                await self._api.open(command.path)
                self._watch_tracker()
            case protocol.CloseApi():
                process.unwatch_tracker()
                await self._api.close()
            case protocol.GetMetrics():
                return protocol.Metrics(text=self._engine.metrics())
            case protocol.Shutdown():
                if not self.shutdown.done():
                    self.shutdown.set_result(command.timeout)
        return Done()

    def _watch_tracker(self) -> None:
        """Now, and not from the beginning: a tree that is frozen has no pidfd."""
        process.watch_tracker(asyncio.get_running_loop(), _tracker_died)

    def _check_closed(self) -> None:
        if self._gate.serving is not Serving.CLOSED:
            raise RuntimeError("this engine has listened: it may hold connections and users' data")

    async def _resume(self, command: protocol.Resume) -> None:
        seed = self._engine.seed if self._engine.seed is not None else secrets.randbits(63)
        await self._engine.resume(command.secrets, seed)
        key = command.secrets.get(API_KEY_VARIABLE)
        self._gate.require_keys([key] if key else [])
        _logger.info("serving as pod %s/%s", command.pod.namespace, command.pod.name)


def _tracker_died() -> None:
    _logger.warning(
        "multiprocessing's resource tracker died: requests go on; what it would have removed from /dev/shm, the worker "
        "removes at its end"
    )


def _log_ours() -> None:
    """Let what this package and the HTTP server say reach the worker's log, however vLLM and its libraries have
    configured logging while they were loaded."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in _OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    for name, known in logging.root.manager.loggerDict.items():
        if name.startswith(_OUR_LOGGERS) and isinstance(known, logging.Logger):
            known.disabled = False


async def _run(spec: EngineSpec) -> None:
    from vernal_worker.control.server import ControlServer
    from vernal_worker.engine import vllm_adapter
    from vernal_worker.engine.api import ApiServer
    from vernal_worker.engine.gate import Gate
    from vernal_worker.engine.http import HttpServer

    engine = await vllm_adapter.load(spec)
    process.shield()  # again: whatever the libraries did meanwhile
    _log_ours()
    gate = Gate(engine.app)
    http = HttpServer(gate, engine.limits)
    engine.app.state.server = http.server  # where vLLM's error handlers look for it
    api = ApiServer(engine.llm, engine.metrics)
    commands = _Commands(engine, gate, http, api)
    async with engine.lifespan():
        ControlServer(spec.socket, commands.handle, asyncio.get_running_loop()).start()
        seconds = await commands.shutdown
        await api.close()
        began = asyncio.get_running_loop().time()
        await http.close(seconds / 2)
    # All that is left is vLLM's: its workers' connectors finish their KV transfers in it.
    await engine.shutdown(seconds - (asyncio.get_running_loop().time() - began))


def main() -> None:
    process.shield()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    spec = decoding.json(sys.argv[1], EngineSpec)
    import uvloop

    code = 0
    try:
        uvloop.run(_run(spec))
    except SystemExit as error:  # argparse, which has said why
        code = error.code if isinstance(error.code, int) else 1
    except Exception:
        traceback.print_exc()
        code = 1
    process.leave(code)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    process.shield()
    process.leave_when_done()
    if multiprocessing.current_process().name.startswith("EngineCore"):
        from vernal_worker.engine.worker_extension import install_in_engine_core

        install_in_engine_core()
