"""Making a checkpoint during a cold start: lease, oracle, quiesce, freeze, publish. The engine goes on in any
case."""

import re
import time
from collections.abc import Sequence

import msgspec
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_contract.state import FreezeOutcome, FreezeReport, Phase

from vernal_worker.checkpoint import procfs
from vernal_worker.checkpoint.carry import SHM
from vernal_worker.checkpoint.cuda.client import OnGpu
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.freeze import freeze
from vernal_worker.checkpoint.process import IMAGES
from vernal_worker.control.client import CallCancelledError, ControlError, TimedOutError, UnreachableError
from vernal_worker.control.protocol import Canary, Weights
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Held, Owner, Request
from vernal_worker.store.staging import Staging
from vernal_worker.store.store import Store
from vernal_worker.store.writeback import write_back
from vernal_worker.supervisor import choose, log, oracle, pace, unfinished
from vernal_worker.supervisor.board import process_age
from vernal_worker.supervisor.context import Context, StoppedError
from vernal_worker.supervisor.engine import Engine
from vernal_worker.supervisor.gpu import FILE as GPU_FILE
from vernal_worker.supervisor.gpu import WEIGHTS, Gpu, Stored
from vernal_worker.supervisor.parts import ORACLE, PROCESS

_NO_SPACE = re.compile("No space left on device|Disk quota exceeded")
"""How an engine that writes weights says it."""


class EngineHarmedError(Exception):
    """The freeze left the engine unusable, or in a state that is not known: it must be replaced."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class Creation:
    """One worker's attempt to make the checkpoint that it did not find. Use as a context manager: it holds a
    lease."""

    def __init__(
        self, context: Context, store: Store, identity: IdentityInputs, host: HostTuple, gpu: Gpu | None = None
    ) -> None:
        self._context = context
        self._gpu = gpu
        self._store = store
        self._identity, self._host = identity, host
        pod = context.settings.pod
        # One for all hosts that might share an artifact: which mounts it needs is only known when it is there.
        shared = msgspec.structs.replace(host, mounts=(), cpu_features=())
        self._request: Request = store.lease(identity, shared, Owner(pod=pod.name, node=pod.node))
        self._lease: Held | None = None
        self._problem: StoreError | None = None
        self._was_quiet = False
        self.published: Artifact | None = None
        """The checkpoint that `freeze` has made."""
        self._size = 0
        """Bytes of the engine's memory, GPUs and all: of more a freeze writes nothing."""

    def __enter__(self) -> "Creation":
        """Ask for the lease now, so that others that start meanwhile need not prepare for a freeze, and so
        that a dead holder's lease has been watched for as long as the cold start takes."""
        self._ask()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lease is not None:
            self._lease.release()

    def freeze(self, engine: Engine) -> None:
        """Make the checkpoint, or find out why not; the outcome is on the board either way.

        Raises:
            StoppedError: the worker was told to stop; nothing is left in the store.
            EngineHarmedError: see there.
        """
        board, stop = self._context.board, self._context.stop
        began = time.monotonic()
        try:
            if (problem := engine.client.status(self._timeout).unfreezable) is not None:
                self._skip(Reason.ENGINE_UNFREEZABLE, problem)
                return
            freezing = self._context.settings.paths.freezing
            was_killed = unfinished.taken(freezing) is not None
            if self._lease is None:
                self._ask()
            if self._problem is not None:
                raise self._problem
            published = self._store.published(self._identity, self._host)
            holder = self._request.holder.pod if self._request.holder else None
            if (skip := choose.must_skip_freeze(published, holder, self._lease is not None)) is not None:
                self._skip(*skip)
                return
            if was_killed:
                message = "the pod's container before was killed while it froze; this one serves without a checkpoint"
                raise CheckpointError(Reason.CONTAINER_KILLED, "freeze", message)
            board.phase(Phase.FREEZING)
            with unfinished.marked(freezing, ""):
                outcome = self._freeze(engine)
        except (StoreError, CheckpointError, ControlError, EngineHarmedError) as error:
            if stop.signalled.is_set():
                raise StoppedError from error
            reason, message = _explained(error)
            seconds = round(time.monotonic() - began, 3)
            board.update(
                freeze=FreezeReport(outcome=FreezeOutcome.FAILED, reason=reason, message=message, seconds=seconds)
            )
            log.failure("freeze_failed", reason=reason, message=message, next_step=NEXT_STEP.get(reason))
            if isinstance(error, EngineHarmedError):
                raise
            if isinstance(error, CheckpointError) and not error.tree_intact:
                raise EngineHarmedError(reason, message) from error
            return
        seconds = time.monotonic() - began
        board.update(freeze=FreezeReport(outcome=outcome, seconds=round(seconds, 3)))
        log.event("frozen", outcome=outcome, seconds=seconds)

    def _skip(self, reason: Reason, message: str) -> None:
        self._context.board.update(freeze=FreezeReport(outcome=FreezeOutcome.SKIPPED, reason=reason, message=message))
        log.event("freeze_skipped", reason=reason, message=message, next_step=NEXT_STEP.get(reason))

    def _ask(self) -> None:
        try:
            self._lease = self._request.try_acquire()
            self._problem = None
        except StoreError as error:
            self._problem = error
            log.failure("no_lease", reason=error.reason, message=error.message)

    def _freeze(self, engine: Engine) -> FreezeOutcome:
        settings, board, cancel = self._context.settings, self._context.board, self._context.stop.signalled
        if (seconds := settings.config.checkpoint.warm_up_seconds) > 0:
            with board.timed("warm"):
                engine.client.warm_up(seconds)
        with board.timed("oracle"):
            expected = engine.client.canary(self._timeout)
        self._size = self._held(engine)
        staging: Staging = self._store.stage(self._identity, self._host)
        try:
            try:
                blobs = self._write(engine, staging)
            except (StoreError, CheckpointError, ControlError) as error:
                if self._was_quiet and not (isinstance(error, CheckpointError) and not error.tree_intact):
                    self._check_answers(engine, expected)  # it is to serve, checkpoint or not
                raise
            self._check_answers(engine, expected)
            staging.write(ORACLE, msgspec.json.encode(expected))
            with board.timed("publish"):
                publication = self._store.publish(
                    staging,
                    created_by=f"{settings.pod.namespace}/{settings.pod.name}",
                    lease=self._lease,
                    timings=board.snapshot().timings,
                    blobs=blobs,
                    timeout=self._by_size,
                    cancel=cancel,
                )
        finally:
            staging.discard()
        if publication.outcome is FreezeOutcome.PUBLISHED:
            self.published = publication.artifact
        manifest = publication.artifact.manifest
        board.update(artifact=publication.artifact.ref(), host_tuple=manifest.host_tuple, host=manifest.host)
        return publication.outcome

    def _held(self, engine: Engine) -> int:
        """Bytes of memory that the engine has."""
        size = sum(map(procfs.resident, engine.tree.members()))
        return size + (self._gpu.used() if self._gpu is not None else 0)

    def _write(self, engine: Engine, staging: Staging) -> dict[str, list[str]]:
        """Returns the files that may be shared. The engine is awake again.

        Raises: as `_freeze_on_gpu`.
        """
        with write_back(staging.dir, skip=[staging.dir / PROCESS / IMAGES]):
            if self._gpu is not None:
                return self._freeze_on_gpu(engine, staging, self._gpu)
            self._quiesce(engine, Weights.IN_HOST_MEMORY)
            self._dump(engine, staging)
            return {}

    def _quiesce(self, engine: Engine, weights: Weights) -> None:
        """Raises: EngineHarmedError: it did not say that it is quiet: then it may become so at any later time."""
        self._was_quiet = True
        try:
            with self._context.board.timed("quiesce"):
                engine.client.quiesce(self._by_size, weights)
        except ControlError as error:
            raise EngineHarmedError(*_explained(error)) from error

    def _freeze_on_gpu(self, engine: Engine, staging: Staging, gpu: Gpu) -> dict[str, list[str]]:
        """Returns the files that may be shared. The engine is awake again.

        Raises: EngineHarmedError: it is not; CheckpointError (if `tree_intact`), ControlError, StoreError: it is.
        """
        try:
            with self._context.board.timed("store_weights"):
                stored = gpu.store(engine, staging, self._by_size)
        except (TimedOutError, UnreachableError) as error:
            # It may still be writing, and whoever waits for its worker processes waits too.
            raise EngineHarmedError(*_explained(error)) from error
        self._quiesce(engine, stored.weights)
        try:
            with self._context.board.timed("cuda_suspend"):
                on = gpu.suspend(engine.tree, stored, self._by_size)
        except CheckpointError as error:
            if error.tree_intact:
                self._wake(engine, staging, gpu, stored, None)
            raise
        intact = True
        try:
            gpu.load(staging.dir / WEIGHTS, on, stored.digests)
            self._dump(engine, staging)
        except CheckpointError as error:
            intact = error.tree_intact
            raise
        finally:
            if intact:
                self._wake(engine, staging, gpu, stored, on)
        staging.write(GPU_FILE, msgspec.json.encode(gpu.measured(on)))
        return stored.blobs

    def _wake(self, engine: Engine, staging: Staging, gpu: Gpu, stored: Stored, suspended: OnGpu | None) -> None:
        """From quiet, or, if it was `suspended`, from off the GPUs.

        Raises: EngineHarmedError: it is not awake.
        """
        size = sum(rank.bytes for rank in stored.memory.ranks) if stored.memory is not None else 0
        timeout = pace.allowance(size, self._context.settings.config.checkpoint.thaw_timeout_seconds)
        try:
            if suspended is not None:
                gpu.restore(suspended, timeout)
                gpu.wake(engine, suspended, timeout)
            else:
                still_there = OnGpu(pids=(), gpus=gpu.helper.gpus(), memory=stored.memory)
                gpu.load(staging.dir / WEIGHTS, still_there, stored.digests)
                gpu.wake(engine, still_there, timeout)
        except (CheckpointError, ControlError) as error:
            raise EngineHarmedError(*_explained(error)) from error

    def _check_answers(self, engine: Engine, expected: Canary) -> None:
        """Before anybody else asks it, and before the artifact is anybody's.

        Raises: EngineHarmedError: it does not answer as before the freeze.
        """
        try:
            with self._context.board.timed("canary"):
                problem = oracle.check(lambda: engine.client.canary(self._timeout), expected)
        except ControlError as error:
            raise EngineHarmedError(*_explained(error)) from error
        if problem is not None:
            raise EngineHarmedError(Reason.CANARY_MISMATCH, problem)

    @property
    def _timeout(self) -> float:
        return self._context.settings.config.checkpoint.freeze_timeout_seconds

    @property
    def _by_size(self) -> float:
        """For what writes the engine's memory, or waits for its size."""
        left = self._context.settings.config.startup_timeout_seconds
        left -= self._context.board.snapshot().timings.get("engine_start", 0.0)
        return pace.for_freeze(self._size, self._timeout, left)

    def _dump(self, engine: Engine, staging: Staging) -> None:
        settings = self._context.settings
        result = freeze(
            engine.tree,
            staging.dir / PROCESS,
            criu=settings.criu,
            timeout=self._by_size,
            work_dir=settings.paths.criu,
            cancel=self._context.stop.signalled,
            carry=(SHM, *settings.paths.carried),
            since=time.time() - process_age() if settings.mounts is None else None,
        )
        staging.narrow(msgspec.structs.replace(self._host, mounts=_both(self._host.mounts, result.mounts)))
        self._context.board.timing("freeze", result.timings["total"])
        log.event(
            "dumped",
            seconds=result.timings["total"],
            images=result.timings["images"],
            bytes=result.bytes,
            processes=len(result.pids),
        )


def _explained(error: StoreError | CheckpointError | ControlError | EngineHarmedError) -> tuple[Reason, str]:
    """Reason and message."""
    if not isinstance(error, ControlError):
        return error.reason, error.message
    message = str(error)
    if isinstance(error, CallCancelledError):
        return Reason.FREEZE_GIVEN_UP, message
    return Reason.STORE_FULL if _NO_SPACE.search(message) else Reason.ENGINE_UNRESPONSIVE, message


def _both(some: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(some) & set(others)))
