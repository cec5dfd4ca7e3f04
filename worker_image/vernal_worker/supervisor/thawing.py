"""From an artifact to an engine that gives the frozen one's answers."""

import time
from pathlib import Path

import msgspec
from vernal_contract import decoding
from vernal_contract.config import Verify
from vernal_contract.reasons import About, Reason, about
from vernal_contract.state import Phase, StartMode

from vernal_worker.checkpoint import process
from vernal_worker.checkpoint.carry import SHM
from vernal_worker.checkpoint.cuda.client import OnGpu
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.memory import Digests
from vernal_worker.checkpoint.taken import MEMORY
from vernal_worker.checkpoint.thaw import thaw
from vernal_worker.checkpoint.waking import Ahead
from vernal_worker.control.client import ControlError
from vernal_worker.control.protocol import Canary
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError, Touch
from vernal_worker.store.pieces import PIECE
from vernal_worker.supervisor import gpu as gpus
from vernal_worker.supervisor import leftovers, oracle, pace
from vernal_worker.supervisor.context import Context
from vernal_worker.supervisor.engine import Engine
from vernal_worker.supervisor.gpu import Gpu
from vernal_worker.supervisor.parts import ORACLE, PROCESS
from vernal_worker.supervisor.verification import Verification
from vernal_worker.supervisor.workspace import Workspace

_LOOK_SECONDS = 10.0
"""For a look at the names and sizes of an artifact's files."""

_OF_FILES = (Reason.DIGEST_MISMATCH, Reason.FILE_MISSING, Reason.FILE_SIZE_MISMATCH)


class ThawError(Exception):
    """A thaw that did not come to be; nothing of it is left."""

    def __init__(self, stage: str, reason: Reason, message: str, *, wanted: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.stage, self.reason, self.message = stage, reason, message
        self.wanted = wanted  # bytes of GPU memory by GPU, if they are known


class Thawing:
    """Thaws for one start."""

    def __init__(self, context: Context, workspace: Workspace) -> None:
        self._context, self._workspace = context, workspace
        self._settings, self._board = context.settings, context.board

    def run(self, artifact: Artifact, gpu: Gpu | None, *, seconds: float | None = None, cached: bool = False) -> Engine:
        """An engine that has taken on this pod's identity.

        Args:
            seconds: how long it may take; None for what the pool says, or its size.
            cached: the artifact is not where the pool's storage has it: every byte of it is verified, whatever the pool
                says of its storage.

        Raises:
            ThawError: at any stage; no process and no file of the artifact is left, and no GPU memory.
        """
        if seconds is None:
            seconds = pace.allowance(artifact.bytes, self._settings.config.checkpoint.thaw_timeout_seconds)
        deadline = time.monotonic() + seconds
        level = Verify.FULL if cached else self._settings.config.checkpoint.verify
        manifest = artifact.manifest
        self._board.update(host_tuple=manifest.host_tuple, host=manifest.host)
        self._board.update(artifact=artifact.ref(), start_mode=StartMode.RESTORED, start_reason=Reason.RESTORED)
        self._board.phase(Phase.THAWING, generation=artifact.generation)
        attempt = _Attempt(self._context, self._workspace, artifact, gpu, deadline, level)
        try:
            return attempt.run()
        except BaseException as error:
            self._workspace.discard(attempt.engine)
            if gpu is not None:
                gpu.let_go()  # after the engine, which a call of the driver may wait for
            cause = attempt.verification.problem() if attempt.verification is not None else None
            if (failure := _as_failure(attempt.stage, cause or error, attempt.wanted)) is None:
                raise
            raise self._missing(artifact, failure.reason) or failure from error

    def _missing(self, artifact: Artifact, reason: Reason) -> ThawError | None:
        """The reason behind `reason`, if somebody has deleted the artifact meanwhile: CRIU, the driver and NFS (ESTALE,
        as for an export that was made anew) have other names for it."""
        if reason is Reason.STORE_SLOW or about(reason) not in (About.NODE, About.STORAGE):
            return None
        look = Touch(_LOOK_SECONDS, self._context.stop.signalled)
        try:
            look("verify", lambda: artifact.verify(Verify.SIZES))
        except StoreError as error:
            if error.reason is Reason.FILE_MISSING:
                return ThawError(error.stage, error.reason, error.message)
        return None


class _Attempt:
    """One thaw: how far it came, and what there is to be cleaned up."""

    def __init__(
        self,
        context: Context,
        workspace: Workspace,
        artifact: Artifact,
        gpu: Gpu | None,
        deadline: float,
        level: Verify,
    ) -> None:
        self._context, self._workspace, self._artifact, self._gpu = context, workspace, artifact, gpu
        self._settings, self._board, self._deadline = context.settings, context.board, deadline
        self._level = level
        self.stage = "verify"
        self.engine: Engine | None = None
        self.verification: Verification | None = None
        self.wanted: tuple[int, ...] = ()

    @property
    def _left(self) -> float:
        return self._deadline - time.monotonic()

    @property
    def _touch(self) -> Touch:
        """For what is read in this thread."""
        return Touch(max(0.0, self._left), self._context.stop.signalled)

    def run(self) -> Engine:
        artifact = self._artifact
        on, expected = self._touch("verify", self._look)
        memory = _of_memory(artifact)
        self.verification = Verification(
            artifact,
            self._level,
            self._board,
            except_content=[*gpus.weight_files(on), *(f"{PROCESS}/{name}" for name in memory.of)],
            first=self._before_criu(),
            timeout=self._left,
            cancel=self._context.stop.signalled,
        )
        if self._gpu and on:
            self.wanted = on.bytes
            self._gpu.load(artifact.path / gpus.WEIGHTS, on, gpus.digests(on, artifact))
        engine = self._restore(memory if self._level is Verify.FULL else None, self.verification, self._ahead(on))
        if self._gpu and on:
            self._back_on_gpu(self._gpu, engine, on)
        self.stage = "resume"
        with self._board.timed("resume"):
            engine.client.resume(self._settings.pod, self._settings.resume_variables, max(self._left, 1.0))
        self.stage = "canary"
        with self._board.timed("canary"):
            self._check_answers(engine, expected)
        return engine

    def _before_criu(self) -> list[str]:
        """Files that are verified before CRIU, which has capabilities, sees them. With a signing key others may be able
        to write them; without one, whoever can does not need CRIU for what he wants."""
        if self._settings.signing_key is None:
            return []
        paths = [Path(entry.path) for entry in self._artifact.manifest.files]
        return [str(path) for path in paths if path.is_relative_to(f"{PROCESS}/{process.IMAGES}")]

    def _look(self) -> tuple[OnGpu | None, Canary]:
        """The artifact has the files that it should have, and what the small ones say."""
        self._artifact.verify(Verify.SIZES)  # says which is missing
        expected = decoding.json((self._artifact.path / ORACLE).read_bytes(), Canary)
        return gpus.read(self._artifact) if self._gpu else None, expected

    def _restore(self, memory: Digests | None, verification: Verification, ahead: Ahead | None) -> Engine:
        """The processes, without the GPU memory that `Gpu.load` brings."""
        self.stage = "criu"
        data = self._touch("criu", lambda: self._artifact.read(f"{PROCESS}/{process.NAME}"))
        frozen = process.decode(data, self._artifact.sizes(PROCESS))
        process.confine(frozen, (SHM, *self._settings.paths.carried))
        leftovers.make_room_for(frozen)
        if self._settings.signing_key is not None:
            with self._board.timed("verify_first"):
                verification.wait_first()

        def started() -> None:
            verification.start()
            self._board.at_leisure.set()

        result = thaw(
            self._artifact.path / PROCESS,
            frozen,
            criu=self._settings.criu,
            timeout=self._left,
            work_dir=self._settings.paths.criu,
            cancel=verification.give_up,
            digests=memory,
            started=started,
            verified=verification.finish,
            ahead=ahead,
        )
        self.engine = self._workspace.engine(result.tree)
        del result.timings["total"]  # the board's is of the whole start
        self._board.timings(result.timings)
        return self.engine

    def _ahead(self, on: OnGpu | None) -> Ahead | None:
        """The driver begins with the processes that hold GPU memory while the others' is filled."""
        if (gpu := self._gpu) is None or on is None or not on.holders:
            return None
        return Ahead(on.holders, lambda: gpu.begin_restore(on))

    def _back_on_gpu(self, gpu: Gpu, engine: Engine, on: OnGpu) -> None:
        self.stage = "cuda"
        gpu.restore(on, self._left)
        self.stage = "weights"
        gpu.wake(engine, on, self._left)

    def _check_answers(self, engine: Engine, expected: Canary) -> None:
        if (problem := oracle.check(lambda: engine.client.canary(max(self._left, 1.0)), expected)) is not None:
            raise ThawError("canary", Reason.CANARY_MISMATCH, problem)


def _of_memory(artifact: Artifact) -> Digests:
    """Of the files that a thaw compares as it reads them."""
    paths = [Path(entry.path) for entry in artifact.manifest.files]
    found = [path for path in paths if path.parent == Path(PROCESS) and path.match(MEMORY)]
    return Digests(PIECE, {path.name: artifact.digests(str(path)) for path in found})


def _as_failure(stage: str, error: BaseException, wanted: tuple[int, ...]) -> ThawError | None:
    match error:
        case ThawError():
            return error
        case StoreError():
            return ThawError(error.stage, error.reason, error.message)
        case CheckpointError():
            if error.reason is Reason.SHM_FAILED:
                stage = "shm"
            elif error.stage == "weights":
                stage = "weights"
            elif error.reason in _OF_FILES:
                stage = "verify"
            elif error.stage == "cuda":  # which begins while CRIU's work ends
                stage = "cuda"
            return ThawError(stage, error.reason, error.message, wanted=wanted)
        case ControlError():
            return ThawError(stage, Reason.ENGINE_UNRESPONSIVE, str(error))
        case FileNotFoundError():  # somebody deleted the artifact meanwhile
            return ThawError(stage, Reason.FILE_MISSING, f"{error.filename} is missing")
        case OSError():
            return ThawError(stage, Reason.STORE_UNAVAILABLE, f"{ORACLE} or {gpus.FILE}: {error}")
        case msgspec.DecodeError():
            return ThawError(stage, Reason.MANIFEST_INVALID, f"{ORACLE} or {gpus.FILE}: {error}")
    return None
