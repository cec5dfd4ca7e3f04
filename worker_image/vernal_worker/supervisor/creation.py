"""Making a checkpoint during a cold start: lease, oracle, quiesce, freeze, publish. The engine goes on in any
case."""

import time

import msgspec
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_contract.state import FreezeOutcome, FreezeReport, Phase

from vernal_worker.checkpoint.carry import SHM
from vernal_worker.checkpoint.cuda.client import OnGpu
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.freeze import freeze
from vernal_worker.checkpoint.process import IMAGES
from vernal_worker.control.client import CallCancelledError, ControlError
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Lease, LeaseRequest, Owner
from vernal_worker.store.staging import Staging
from vernal_worker.store.store import Store
from vernal_worker.store.writeback import write_back
from vernal_worker.supervisor import choose, log
from vernal_worker.supervisor.context import CALL_TIMEOUT, Context, StoppedError
from vernal_worker.supervisor.engine import Engine
from vernal_worker.supervisor.gpu import FILE as GPU_FILE
from vernal_worker.supervisor.gpu import WEIGHTS, Emptied, Gpu

PROCESS = "process"
"""Directory of the frozen tree in an artifact."""

ORACLE = "oracle.json"
"""What the canary answered before the freeze (`vernal_worker.control.protocol.Canary`)."""


class EngineHarmedError(Exception):
    """The freeze failed in a way that leaves the engine unusable: it must be replaced."""


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
        self._request: LeaseRequest = store.lease(identity, host, Owner(pod=pod.name, node=pod.node))
        self._lease: Lease | None = None
        self._problem: StoreError | None = None

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
            if self._lease is None:
                self._ask()
            if self._problem is not None:
                raise self._problem
            fresh = self._store.find(self._identity, self._host)
            holder = self._request.holder.pod if self._request.holder else None
            if (skip := choose.must_skip_freeze(fresh, holder, self._lease is not None)) is not None:
                reason, message = skip
                board.update(freeze=FreezeReport(outcome=FreezeOutcome.SKIPPED, reason=reason, message=message))
                log.event("freeze_skipped", reason=reason, message=message)
                return
            board.phase(Phase.FREEZING)
            outcome = self._freeze(engine)
        except (StoreError, CheckpointError, ControlError) as error:
            if stop.signalled.is_set():
                raise StoppedError from error
            report = _report(error, time.monotonic() - began)
            board.update(freeze=report)
            log.failure(
                "freeze_failed",
                reason=report.reason,
                message=report.message,
                next_step=NEXT_STEP.get(Reason(report.reason)) if report.reason else None,
            )
            if isinstance(error, CheckpointError) and not error.tree_intact:
                raise EngineHarmedError from error
            return
        seconds = time.monotonic() - began
        board.update(freeze=FreezeReport(outcome=outcome, seconds=round(seconds, 3)))
        log.event("frozen", outcome=outcome, seconds=seconds)

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
            oracle = engine.client.canary(CALL_TIMEOUT)
        staging: Staging = self._store.stage(self._identity, self._host)
        blobs: dict[str, list[str]] = {}
        try:
            with write_back(staging.dir, skip=[staging.dir / PROCESS / IMAGES]):
                if self._gpu is None:
                    self._freeze_here(engine, staging)
                else:
                    blobs = self._freeze_on_gpu(engine, staging, self._gpu)
            (staging.dir / ORACLE).write_bytes(msgspec.json.encode(oracle))
            with board.timed("publish"):
                publication = staging.publish(
                    created_by=f"{settings.pod.namespace}/{settings.pod.name}",
                    lease=self._lease,
                    timings=board.snapshot().timings,
                    blobs=blobs,
                    cancel=cancel,
                )
        except OSError as error:
            raise StoreError(Reason.STORE_UNAVAILABLE, "stage", f"cannot write {ORACLE}: {error}") from error
        finally:
            staging.discard()
        board.update(artifact=publication.artifact.ref())
        return publication.outcome

    def _freeze_here(self, engine: Engine, staging: Staging) -> None:
        with self._context.board.timed("quiesce"):
            engine.client.quiesce(CALL_TIMEOUT)
        self._dump(engine, staging)

    def _freeze_on_gpu(self, engine: Engine, staging: Staging, gpu: Gpu) -> dict[str, list[str]]:
        """Returns the files that may be shared. The engine has its GPU memory again.

        Raises: EngineHarmedError: it has not.
        """
        timeout = self._context.settings.config.checkpoint.freeze_timeout_seconds
        board = self._context.board
        emptied: Emptied | None = None
        on: OnGpu | None = None
        try:
            with board.timed("quiesce"):
                emptied = gpu.empty(engine, staging.dir, timeout)
            with board.timed("cuda_suspend"):
                on = gpu.suspend(engine.tree, emptied, timeout)
            gpu.load(staging.dir / WEIGHTS, on, emptied.digests)
            self._dump(engine, staging)
            (staging.dir / GPU_FILE).write_bytes(msgspec.json.encode(on))
        finally:
            self._back_on_gpu(engine, staging, gpu, emptied, on)
        return emptied.blobs

    def _back_on_gpu(
        self, engine: Engine, staging: Staging, gpu: Gpu, emptied: Emptied | None, on: OnGpu | None
    ) -> None:
        """However far the freeze came."""
        timeout = self._context.settings.config.checkpoint.thaw_timeout_seconds
        try:
            if on is not None:
                gpu.restore(on, timeout)
            elif emptied is not None:
                on = OnGpu(pids=(), gpus=(), memory=emptied.memory)
                gpu.load(staging.dir / WEIGHTS, on, emptied.digests)
            else:
                on = OnGpu(pids=(), gpus=())
            gpu.wake(engine, on, staging.dir / WEIGHTS, emptied.digests if emptied else [], timeout)
        except (CheckpointError, ControlError) as error:
            log.failure("not_back_on_gpu", message=str(error))
            raise EngineHarmedError from error

    def _dump(self, engine: Engine, staging: Staging) -> None:
        settings = self._context.settings
        result = freeze(
            engine.tree,
            staging.dir / PROCESS,
            criu=settings.criu,
            timeout=settings.config.checkpoint.freeze_timeout_seconds,
            work_dir=settings.paths.criu,
            cancel=self._context.stop.signalled,
            carry=(SHM, *settings.paths.carried),
        )
        self._context.board.timing("freeze", result.timings["total"])
        log.event(
            "dumped",
            seconds=result.timings["total"],
            images=result.timings["images"],
            bytes=result.bytes,
            processes=len(result.pids),
        )


def _report(error: StoreError | CheckpointError | ControlError, seconds: float) -> FreezeReport:
    if isinstance(error, ControlError):
        reason = Reason.FREEZE_GIVEN_UP if isinstance(error, CallCancelledError) else Reason.ENGINE_UNRESPONSIVE
        message = str(error)
    else:
        reason, message = error.reason, error.message
    return FreezeReport(outcome=FreezeOutcome.FAILED, reason=reason, message=message, seconds=round(seconds, 3))
