"""From nothing to an engine that is ready to listen: thaw, or start cold and perhaps freeze."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from vernal_contract.config import CheckpointPolicy, Verify
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_contract.state import FreezeOutcome, FreezeReport, Phase, RestoreFailure, StartMode

from vernal_worker.checkpoint import doctor, host
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.images import MEMORY
from vernal_worker.checkpoint.launch import PID_FLOOR, LaunchSpec, launch
from vernal_worker.checkpoint.memory import Digests
from vernal_worker.checkpoint.thaw import thaw
from vernal_worker.checkpoint.tree import ProcessTree
from vernal_worker.control.client import ControlError
from vernal_worker.control.protocol import Canary, EngineSpec
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.pieces import PIECE
from vernal_worker.store.store import Store
from vernal_worker.supervisor import choose, gpu, identity, leftovers, log
from vernal_worker.supervisor.choose import Cold, GiveUp, Thaw
from vernal_worker.supervisor.context import CALL_TIMEOUT, Context, StoppedError
from vernal_worker.supervisor.creation import ORACLE, PROCESS, Creation, EngineHarmedError
from vernal_worker.supervisor.engine import Engine, EngineError
from vernal_worker.supervisor.engine_args import options
from vernal_worker.supervisor.gpu import Gpu
from vernal_worker.supervisor.verification import Verification


class StartError(Exception):
    """There is no engine, and there will be none in this container."""

    def __init__(self, reason: Reason, message: str, *, required: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.required = required  # a cold start might have worked, but the policy forbids it


class _ThawError(Exception):
    def __init__(self, stage: str, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason, self.message = stage, reason, message


class Start:
    """One start: `run` is called once, `clean` again when the engine is gone."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._settings, self._board, self._stop = context.settings, context.board, context.stop
        checkpoint = self._settings.config.checkpoint
        self._policy = checkpoint.policy
        self._store = Store(Path(checkpoint.store_path), restore_attempts=checkpoint.restore_attempts)
        self._identity: IdentityInputs | None = None
        self._host: HostTuple | None = None
        self._shm_before = leftovers.names()
        self._gpu: Gpu | None = None

    def run(self) -> Engine:
        """Returns an engine that has taken on this pod's identity and has not listened yet.

        Raises:
            StartError, StoppedError: see there; no process of an engine is left.
        """
        with self._gpus():
            return self._run()

    @contextmanager
    def _gpus(self) -> Iterator[None]:
        """The CUDA helper, where there are GPUs, for as long as the block takes."""
        if (helper := gpu.start_helper(self._context)) is None:
            yield
            return
        self._gpu = Gpu(helper, self._context)
        try:
            yield
        finally:
            self._gpu = None
            helper.close()

    def _run(self) -> Engine:
        self._prepare_directories()
        choice = self._choose()
        if isinstance(choice, Thaw):
            try:
                return self._thaw(choice.artifact)
            except _ThawError as failure:
                if self._stop.signalled.is_set():
                    raise StoppedError from failure
                choice = self._after_failure(choice.artifact.generation, failure)
        if isinstance(choice, GiveUp):
            self._board.update(start_reason=choice.reason, start_message=choice.message)
            raise StartError(choice.reason, choice.message, required=True)
        return self._cold(choice)

    def _prepare_directories(self) -> None:
        paths = self._settings.paths
        for directory in (paths.root, paths.tmp, paths.cache, paths.criu):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.root.chmod(0o700)
        self.clean()

    def clean(self) -> None:
        """Remove the files of an engine that is gone, so that another one can start or be thawed here."""
        paths = self._settings.paths
        paths.socket.unlink(missing_ok=True)
        for directory in paths.carried:
            for entry in directory.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        leftovers.sweep(self._shm_before)

    # --- deciding ---

    def _choose(self) -> Thaw | Cold | GiveUp:
        if self._policy is CheckpointPolicy.DISABLED:
            return choose.disabled()
        supported, problem = doctor.supported(criu=self._settings.criu)
        if not supported:
            return choose.unsupported(self._policy, problem)
        if self._gpu is not None and (problem := gpu.unsupported(self._settings.arguments) or ""):
            return choose.unsupported(self._policy, problem)
        with self._board.timed("identity"):
            try:
                wanted = identity.gather(
                    self._settings.config,
                    self._settings.arguments,
                    self._settings.shaping,
                    self._settings.criu,
                    gpu.placement(self._settings.config),
                )
            except OSError as error:
                raise StartError(Reason.CONFIG_INVALID, f"the model cannot be read: {error}") from error
            here = host.host_tuple(self._settings.mounts)
        self._identity, self._host = wanted, here
        self._board.update(identity=digest(wanted), identity_inputs=wanted, host_tuple=digest(here), host=here)
        try:
            with self._board.timed("find"):
                return choose.from_lookup(self._store.find(wanted, here))
        except StoreError as error:
            if error.generation is not None:
                return self._after_failure(error.generation, _ThawError("find", error.reason, error.message))
            return choose.from_store_error(self._policy, error)

    def _after_failure(self, generation: str, failure: _ThawError) -> Cold | GiveUp:
        """Write the failure down: on the board, in the log, in the store."""
        self._board.failed_restore(
            RestoreFailure(generation=generation, stage=failure.stage, reason=failure.reason, message=failure.message)
        )
        log.failure(
            "thaw_failed",
            generation=generation,
            stage=failure.stage,
            reason=failure.reason,
            message=failure.message,
            next_step=NEXT_STEP.get(failure.reason),
        )
        assert self._identity is not None and self._host is not None
        quarantined = False
        try:
            self._store.record_failure(
                self._identity,
                self._host,
                generation,
                stage=failure.stage,
                reason=failure.reason,
                message=failure.message,
                worker=self._settings.pod.name,
            )
            quarantined = self._store.quarantined(self._identity, self._host, generation)
        except StoreError as error:
            log.failure("failure_not_recorded", reason=error.reason, message=error.message)
        return choose.after_failed_thaw(self._policy, failure.reason, failure.message, quarantined)

    # --- thawing ---

    def _thaw(self, artifact: Artifact) -> Engine:
        """Raises: _ThawError: at any stage; no process and no file of the artifact is left."""
        checkpoint = self._settings.config.checkpoint
        deadline = time.monotonic() + checkpoint.thaw_timeout_seconds
        self._board.update(artifact=artifact.ref(), start_mode=StartMode.RESTORED, start_reason=Reason.RESTORED)
        self._board.phase(Phase.THAWING, generation=artifact.generation)
        stage, engine, verification = "verify", None, None
        try:
            artifact.verify(Verify.SIZES)
            on = gpu.read(artifact) if self._gpu else None
            memory = _of_memory(artifact)
            verification = Verification(
                artifact,
                checkpoint.verify,
                self._board,
                except_content=[*gpu.weight_files(on), *(f"{PROCESS}/{name}" for name in memory.of)],
                timeout=deadline - time.monotonic(),
                cancel=self._stop.signalled,
            )
            if self._gpu and on:
                weights, digests = artifact.path / gpu.WEIGHTS, gpu.digests(on, artifact)
                self._gpu.load(weights, on, digests)
            stage = "criu"
            leftovers.make_room_for(artifact.path / PROCESS)
            result = thaw(
                artifact.path / PROCESS,
                criu=self._settings.criu,
                timeout=deadline - time.monotonic(),
                work_dir=self._settings.paths.criu,
                cancel=verification.give_up,
                digests=memory if checkpoint.verify is Verify.FULL else None,
            )
            engine = self._engine(result.tree)
            verification.finish()
            for name, seconds in result.timings.items():
                if name != "total":
                    self._board.timing(name, seconds)
            if self._gpu and on:
                stage = "cuda"
                self._gpu.restore(on, deadline - time.monotonic())
                stage = "weights"
                self._gpu.wake(engine, on, weights, digests, deadline - time.monotonic())
            stage = "resume"
            self._resume(engine, deadline - time.monotonic())
            stage = "canary"
            with self._board.timed("canary"):
                self._check_oracle(engine, artifact, deadline - time.monotonic())
            return engine
        except BaseException as error:
            if engine is not None:
                engine.destroy()
            self.clean()
            cause = verification.problem() if verification is not None else None
            if (failure := _as_failure(stage, cause or error)) is None:
                raise
            raise failure from error

    def _check_oracle(self, engine: Engine, artifact: Artifact, timeout: float) -> None:
        expected = msgspec.json.decode((artifact.path / ORACLE).read_bytes(), type=Canary)
        found = engine.client.canary(max(timeout, 1.0))
        if found != expected:
            raise _ThawError(
                "canary",
                Reason.CANARY_MISMATCH,
                f"before the freeze the answers were {expected.answers}, now they are {found.answers}",
            )

    # --- starting cold ---

    def _cold(self, cold: Cold) -> Engine:
        self._board.update(
            start_mode=StartMode.COLD, start_reason=cold.reason, start_message=cold.message, artifact=None
        )
        self._board.phase(
            Phase.STARTING,
            mode=StartMode.COLD,
            reason=cold.reason,
            message=cold.message,
            next_step=NEXT_STEP.get(cold.reason),
        )
        if not cold.freeze:
            self._board.update(
                freeze=FreezeReport(outcome=FreezeOutcome.SKIPPED, reason=cold.reason, message=cold.message)
            )
            return self._resumed(self._launch(freezable=False))
        assert self._identity is not None and self._host is not None
        with Creation(self._context, self._store, self._identity, self._host, self._gpu) as creation:
            engine = self._launch(freezable=True)
            try:
                creation.freeze(engine)
                return self._resumed(engine)
            except EngineHarmedError:
                log.event("engine_replaced", message="the freeze harmed the engine; starting another one")
                engine.destroy()
                self.clean()
            except BaseException:
                engine.destroy()
                self.clean()
                raise
        return self._resumed(self._launch(freezable=False))

    def _launch(self, *, freezable: bool) -> Engine:
        """Start vLLM and wait until the model is loaded."""
        settings = self._settings
        arguments = dict(settings.arguments)
        names = arguments.pop("served_model_name")
        spec = EngineSpec(
            socket=str(settings.paths.socket),
            model=str(arguments.pop("model")),
            served_model_names=(names,) if isinstance(names, str) else tuple(names),
            serve_arguments=tuple(options(arguments)),
            sleep_mode=freezable and self._gpu is not None,
        )
        log.event("engine_start", model=spec.model, arguments=" ".join(spec.serve_arguments))
        with self._board.timed("engine_start"):
            try:
                tree = launch(
                    LaunchSpec(
                        argv=[
                            sys.executable,
                            "-m",
                            "vernal_worker.engine.main",
                            msgspec.json.encode(spec).decode(),
                        ],
                        env=settings.environment,
                        pid_floor=PID_FLOOR if freezable else 0,
                    )
                )
            except CheckpointError as error:
                raise StartError(error.reason, error.message) from error
            engine = self._engine(tree)
            try:
                engine.wait_loaded(settings.config.startup_timeout_seconds, self._stop.signalled)
                return engine
            except BaseException as error:
                engine.destroy()
                self.clean()
                if isinstance(error, InterruptedError):
                    raise StoppedError from error
                if isinstance(error, EngineError):
                    raise StartError(error.reason, error.message) from error
                raise

    def _engine(self, tree: ProcessTree) -> Engine:
        self._context.reaper.leave_alone(tree.pid)
        return Engine(tree, str(self._settings.paths.socket), self._stop.signalled, self._stop.at_once)

    def _resumed(self, engine: Engine) -> Engine:
        try:
            self._resume(engine, CALL_TIMEOUT)
            return engine
        except BaseException as error:
            engine.destroy()
            self.clean()
            if self._stop.signalled.is_set():
                raise StoppedError from error
            if isinstance(error, ControlError):
                raise StartError(Reason.ENGINE_UNRESPONSIVE, str(error)) from error
            raise

    def _resume(self, engine: Engine, timeout: float) -> None:
        with self._board.timed("resume"):
            engine.client.resume(self._settings.pod, dict(self._settings.secrets), max(timeout, 1.0))


def _of_memory(artifact: Artifact) -> Digests:
    """Of the files that a thaw compares as it reads them."""
    paths = [Path(entry.path) for entry in artifact.manifest.files]
    found = [path for path in paths if path.parent == Path(PROCESS) and path.match(MEMORY)]
    return Digests(PIECE, {path.name: artifact.digests(str(path)) for path in found})


def _as_failure(stage: str, error: BaseException) -> _ThawError | None:
    match error:
        case _ThawError():
            return error
        case StoreError():
            return _ThawError(error.stage, error.reason, error.message)
        case CheckpointError():
            shm = error.reason is Reason.SHM_FAILED
            weights = error.stage == "weights"
            if error.reason is Reason.DIGEST_MISMATCH and not weights:
                stage = "verify"
            return _ThawError("shm" if shm else "weights" if weights else stage, error.reason, error.message)
        case ControlError():
            return _ThawError(stage, Reason.ENGINE_UNRESPONSIVE, str(error))
        case FileNotFoundError():  # somebody deleted the artifact meanwhile
            return _ThawError(stage, Reason.FILE_MISSING, f"{error.filename} is missing")
        case OSError():
            return _ThawError(stage, Reason.STORE_UNAVAILABLE, f"{ORACLE} or {gpu.FILE}: {error}")
        case msgspec.DecodeError():
            return _ThawError(stage, Reason.MANIFEST_INVALID, f"{ORACLE} or {gpu.FILE}: {error}")
    return None
