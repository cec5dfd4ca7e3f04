"""The GPU side of a start: what is kept about it in an artifact, and who does it (`checkpoint.cuda`)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from vernal_contract import decoding
from vernal_contract.config import CheckpointPolicy, Verify, WeightsPlacement, WorkerConfig
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import procfs
from vernal_worker.checkpoint.cuda import launch
from vernal_worker.checkpoint.cuda.client import CudaHelper, OnGpu
from vernal_worker.checkpoint.cuda.layout import FILE_BYTES, Memory, Rank, Segment
from vernal_worker.checkpoint.cuda.messages import Room
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.gpu import gpus
from vernal_worker.checkpoint.tree import ProcessTree
from vernal_worker.control.client import RefusedError
from vernal_worker.control.protocol import FromHelper, FromHostMemory, StoredRank, Wake, Weights
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.pieces import PIECE
from vernal_worker.supervisor import log
from vernal_worker.supervisor.context import Context
from vernal_worker.supervisor.engine import Engine
from vernal_worker.supervisor.gpu_memory import insufficient
from vernal_worker.threads import keep_running

if TYPE_CHECKING:
    from vernal_worker.store.staging import Staging

FILE = "gpu.json"
"""`OnGpu` of a frozen tree; absent where no GPU was used."""

WEIGHTS = "weights"
"""Directory of the files with GPU memory in an artifact."""

_MUCH = 64 << 20
"""Bytes that the driver takes over from a GPU for a process: one that has only initialised CUDA has next to nothing
there, one that computes has a context."""

_OUT_OF_MEMORY = re.compile(r"out.of.memory", re.IGNORECASE)
"""How vLLM, torch and the driver say it."""


def placement(config: WorkerConfig) -> WeightsPlacement:
    """Where the weights of this worker's checkpoint are: always in the image where there is no GPU."""
    return config.checkpoint.weights if gpus().count else WeightsPlacement.IN_IMAGE


def weight_files(on: OnGpu | None) -> list[str]:
    """Files of an artifact whose bytes the CUDA helper verifies as it reads them."""
    if on is None or on.memory is None:
        return []
    return [f"{WEIGHTS}/{name}" for rank in on.memory.ranks for name in rank.files]


def digests(on: OnGpu, artifact: Artifact) -> list[list[str]]:
    """Of the pieces of each rank's stored GPU memory."""
    ranks = on.memory.ranks if on.memory is not None else ()
    return [[found for name in rank.files for found in artifact.digests(f"{WEIGHTS}/{name}")] for rank in ranks]


def read(artifact: Artifact) -> OnGpu:
    """Raises: StoreError, OSError, msgspec.DecodeError."""
    return decoding.json(artifact.read(FILE), OnGpu)


@contextmanager
def opened(context: Context) -> Iterator["Gpu | None"]:
    """The GPUs of this worker, for as long as the block takes; None if it has none, or neither freezes nor thaws.

    Where the block fails nothing of it is on a GPU behind it. Where it ends there is an engine, and clients wait for
    it: what the helper has left there, a context of half a GiB, goes meanwhile.
    """
    if context.settings.config.checkpoint.policy is CheckpointPolicy.DISABLED or not gpus().count:
        launch.discard()
        yield None
        return
    found = Gpu(context)
    try:
        yield found
    except BaseException:
        found.let_go()
        raise
    try:
        keep_running("cuda-helper-end", found.let_go, log.thread_failed)
    except RuntimeError:  # no more threads
        found.let_go()


class Gpu:
    """The GPUs of one start, and the helper process that holds memory there and speaks with the driver."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._helper: CudaHelper | None = CudaHelper(context.stop.signalled)
        self._off = Room()  # what the GPUs had free when the tree was off them

    @property
    def helper(self) -> CudaHelper:
        """Started if there is none."""
        if self._helper is None:
            self._helper = CudaHelper(self.context.stop.signalled)
        return self._helper

    def let_go(self) -> None:
        """End the helper and wait until it is gone, and with it all GPU memory that it holds. Never raises."""
        helper, self._helper = self._helper, None
        if helper is not None and not helper.close():
            log.failure(
                "helper_stuck",
                pid=helper.pid,
                message="the CUDA helper was killed and does not end: it is in a call of the driver",
                next_step="look for Xid lines of the driver in the node's kernel log; reset the GPU or the node",
            )

    def room(self, wanted: Sequence[int] = ()) -> Room:
        """What the GPUs have free now. Raises: CheckpointError."""
        self.helper.ask_room(wanted)
        return self.helper.room()

    # --- freezing ---

    def used(self) -> int:
        """Bytes of the GPUs that the engine is on and others may be; 0 if nobody can tell."""
        room = self._look()
        taken = [total - free for total, free in zip(room.total, room.free, strict=False)]
        return sum(taken[: self.context.settings.gpus_used])

    def store(self, engine: Engine, staging: "Staging", timeout: float) -> "Stored":
        """Write the weights to files of `staging`, if they are to be outside of the image. The engine is as before.

        Raises: ControlError, StoreError.
        """
        before = self._look()
        if placement(self.context.settings.config) is WeightsPlacement.IN_IMAGE:
            return Stored((), Weights.IN_HOST_MEMORY, before)
        directory = staging.make(WEIGHTS)
        return Stored(engine.client.store_weights(str(directory), PIECE, timeout), Weights.IN_FILES, before)

    def suspend(self, tree: ProcessTree, stored: "Stored", timeout: float) -> OnGpu:
        """Take the tree, which is quiet, off the GPUs.

        Raises: CheckpointError.
        """
        members = tree.members()
        pids = self.helper.users(members)
        before = {pid: procfs.resident(pid) for pid in members}
        timings = self.helper.suspend(pids, timeout)
        taken = {pid: procfs.resident(pid) - size for pid, size in before.items()}
        holders = tuple(pid for pid in pids if taken[pid] > _MUCH)
        log.event("off_gpu", pids=list(pids), resident=sum(before.values()), taken_over=sum(taken.values()))
        self.context.board.timings(timings, "cuda_")
        self._off = self._look()
        gpus = self.helper.gpus()
        return OnGpu(pids=pids, holders=holders, gpus=gpus, memory=stored.memory, bytes=self._taken(stored.before))

    def measured(self, on: OnGpu) -> OnGpu:
        """After `wake`: what `suspend` made, with what the tree takes of the GPUs. It was looked at twice, when it went
        and when it came back: others may come and go too, but hardly both times."""
        again = self._taken(self._look())
        smaller = tuple(map(min, on.bytes, again)) if len(again) == len(on.bytes) else ()
        return msgspec.structs.replace(on, bytes=smaller)

    def _look(self) -> Room:
        """What there is free now, if that can be told: a freeze does not fail for want of it."""
        try:
            return self.room()
        except CheckpointError as error:
            log.failure("gpu_memory_unknown", reason=error.reason, message=error.message)
            return Room()

    def _taken(self, with_tree: Room) -> tuple[int, ...]:
        """Bytes of each GPU that the engine uses."""
        sizes = [without - there for without, there in zip(self._off.free, with_tree.free, strict=False)]
        return tuple(max(0, size) for size in sizes[: self.context.settings.gpus_used])

    # --- after a freeze, and thawing ---

    def load(self, directory: Path, on: OnGpu, digests: Sequence[Sequence[str]]) -> None:
        """Begin to bring GPU memory back from the files in `directory`, if there is room. Returns at once.

        Raises: CheckpointError.
        """
        self.helper.ask_room(on.bytes, len(on.memory.ranks) if on.memory is not None else 0)
        if on.memory is None:
            return
        verify = self.context.settings.config.checkpoint.verify is Verify.FULL
        path = self.context.settings.paths.memory
        self.helper.load(path, directory, on.memory, digests if verify else None)

    def begin_restore(self, on: OnGpu) -> None:
        """After `load`: have the driver begin with the processes that hold GPU memory. Returns at once. Raises:
        CheckpointError."""
        self._check_room(on)
        self.helper.begin_restore(on)

    def restore(self, on: OnGpu, timeout: float) -> None:
        """After `load`: put the tree back on the GPUs, without what `load` brings.

        Raises: CheckpointError.
        """
        if not self.helper.restoring:
            self._check_room(on)
        self.context.board.timings(self.helper.restore(on, timeout), "cuda_")

    def _check_room(self, on: OnGpu) -> None:
        if (problem := insufficient(on.bytes, self.helper.room())) is not None:
            raise CheckpointError(Reason.GPU_MEMORY_INSUFFICIENT, "cuda", problem)

    def wake(self, engine: Engine, on: OnGpu, timeout: float) -> None:
        """After `restore`: give the engine its GPU memory, which `load` brought.

        Raises: CheckpointError (stage `weights`), ControlError.
        """
        board = self.context.board
        source: FromHelper | FromHostMemory = FromHostMemory()
        if on.memory is not None:
            with board.timed("weights_wait"):
                timings = self.helper.wait_loaded(timeout)
            board.timing("weights", timings["total"], timings.ended["total"])
            source = FromHelper(socket=str(self.context.settings.paths.memory))
        with board.timed("wake"):
            try:
                engine.client.wake(Wake(source=source), max(timeout, 1.0))
            except RefusedError as error:
                if (reason := _reason(str(error))) is None:
                    raise
                raise CheckpointError(reason, "weights", str(error)) from error


class Stored(msgspec.Struct, frozen=True):
    """What came of `Gpu.store`: each rank's files, where the weights are to be, what the GPUs had free before."""

    ranks: Sequence[StoredRank]
    weights: Weights
    before: Room

    @property
    def memory(self) -> Memory | None:
        """What is in files; None if nothing is."""
        return _memory(self.ranks) if self.weights is Weights.IN_FILES else None

    @property
    def digests(self) -> list[list[str]]:
        return [rank.digests for rank in self.ranks]

    @property
    def blobs(self) -> dict[str, list[str]]:
        """Files of the staging and the digests of their pieces."""
        each = FILE_BYTES // PIECE
        return {
            f"{WEIGHTS}/{name}": stored.digests[number * each : (number + 1) * each]
            for rank, stored in zip(self.memory.ranks if self.memory else (), self.ranks, strict=True)
            for number, name in enumerate(rank.files)
        }


def _reason(refusal: str) -> Reason | None:
    """What an engine's own words mean, if they are known."""
    return Reason.GPU_MEMORY_INSUFFICIENT if _OUT_OF_MEMORY.search(refusal) else None


def _memory(ranks: Sequence[StoredRank]) -> Memory:
    return Memory(
        piece=PIECE,
        ranks=tuple(
            Rank(file=rank.file, segments=tuple(Segment(tag, size) for tag, size in rank.segments)) for rank in ranks
        ),
    )
