"""Starting vLLM the slow way, until its model is loaded."""

import sys

import msgspec
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.launch import LaunchSpec, launch
from vernal_worker.checkpoint.pids import PID_FLOOR
from vernal_worker.control.protocol import EngineSpec
from vernal_worker.supervisor import fetching, gpu_memory, hub, log
from vernal_worker.supervisor.context import Context, EngineSetup, Settings, StartError, StoppedError
from vernal_worker.supervisor.engine import Engine, EngineError
from vernal_worker.supervisor.engine_args import options
from vernal_worker.supervisor.gpu import Gpu
from vernal_worker.supervisor.gpu_memory import RoomWait
from vernal_worker.supervisor.hub import HubError
from vernal_worker.supervisor.workspace import Workspace


class Launcher:
    """Starts one engine after the other."""

    def __init__(self, context: Context, workspace: Workspace) -> None:
        self._context, self._workspace = context, workspace

    def launch(self, settings: Settings, gpu: Gpu | None, wait: RoomWait, *, freezable: bool) -> Engine:
        """`settings`: the context's, with what a hub said; `freezable`: so that it can be frozen, which changes some of
        vLLM's settings.

        Raises:
            StartError, StoppedError: no process and no file of the engine is left.
        """
        if gpu is not None:
            self._wait_for_room(gpu, wait)
        stop = self._context.stop
        setup = settings.engine(freezable=freezable)
        if freezable and settings.repositories:
            setup = self._fetched(settings, setup)
        arguments = dict(setup.arguments)
        names = arguments.pop("served_model_name")
        spec = EngineSpec(
            socket=str(settings.paths.socket),
            model=str(arguments.pop("model")),
            served_model_names=(names,) if isinstance(names, str) else tuple(names),
            serve_arguments=tuple(options(arguments)),
            sleep_mode=freezable and gpu is not None,
        )
        log.event("engine_start", model=spec.model, arguments=" ".join(spec.serve_arguments))
        with self._context.board.timed("engine_start"):
            try:
                tree = launch(
                    LaunchSpec(
                        argv=[sys.executable, "-m", "vernal_worker.engine.main", msgspec.json.encode(spec).decode()],
                        env=setup.environment,
                        pid_floor=PID_FLOOR if freezable else 0,
                    )
                )
            except CheckpointError as error:
                raise StartError(error.reason, error.message) from error
            self._context.board.at_leisure.set()
            engine = self._workspace.engine(tree)
            try:
                engine.wait_loaded(settings.config.startup_timeout_seconds, stop.signalled)
                return engine
            except BaseException as error:
                self._workspace.discard(engine)
                if isinstance(error, InterruptedError):
                    raise StoppedError from error
                if isinstance(error, EngineError):
                    raise StartError(error.reason, error.message) from error
                raise

    def _fetched(self, settings: Settings, setup: EngineSetup) -> EngineSetup:
        """With files instead of what a hub would be asked for: an engine that is to be frozen has no secrets.

        Raises: StartError, StoppedError.
        """
        try:
            with self._context.board.timed("fetch"):
                seconds, cancel = settings.config.startup_timeout_seconds, self._context.stop.signalled
                directories = fetching.fetch(settings, seconds, cancel)
        except InterruptedError as error:
            raise StoppedError from error
        except HubError as error:
            raise StartError(Reason.ENGINE_START_FAILED, str(error)) from error
        arguments = hub.with_files(setup.arguments, settings.repositories, directories)
        return EngineSetup(arguments, {**setup.environment, **hub.OFFLINE})

    def _wait_for_room(self, gpu: Gpu, wait: RoomWait) -> None:
        """vLLM would find out too, half a minute later and without saying who wants what."""
        settings = self._context.settings
        try:
            wait.until(gpu.room, lambda room: gpu_memory.for_cold_start(settings.arguments, settings.gpus_used, room))
        except CheckpointError as error:
            if error.reason is Reason.GPU_MEMORY_INSUFFICIENT:
                raise StartError(error.reason, error.message) from error
            log.failure("gpu_memory_unknown", reason=error.reason, message=error.message)
