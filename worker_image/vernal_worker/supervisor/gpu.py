"""The GPU side of a start: what is kept about it in an artifact, and who does it (`checkpoint.cuda`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from vernal_contract.config import CheckpointPolicy, Verify, WeightsPlacement, WorkerConfig
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import procfs
from vernal_worker.checkpoint.cuda import launch
from vernal_worker.checkpoint.cuda.client import CudaHelper, OnGpu
from vernal_worker.checkpoint.cuda.layout import FILE_BYTES, Memory, Rank, Segment
from vernal_worker.checkpoint.errors import OTHER_BYTES, CheckpointError
from vernal_worker.checkpoint.gpu import gpus
from vernal_worker.checkpoint.tree import ProcessTree
from vernal_worker.control.client import RefusedError
from vernal_worker.control.protocol import StoredRank, Wake
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.pieces import PIECE
from vernal_worker.supervisor import log
from vernal_worker.supervisor.context import CALL_TIMEOUT, Context
from vernal_worker.supervisor.engine import Engine

FILE = "gpu.json"
"""`OnGpu` of a frozen tree; absent where no GPU was used."""

WEIGHTS = "weights"
"""Directory of the files with GPU memory in an artifact."""

MOST_GPUS = 2


def unsupported(arguments: Mapping[str, Any]) -> str | None:
    """Why an engine on GPUs with these arguments (canonical) cannot be frozen; None if it can."""
    most = {
        "tensor_parallel_size": MOST_GPUS,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "prefill_context_parallel_size": 1,
    }
    for name, limit in most.items():
        if int(arguments.get(name, 1)) > limit:
            return (
                f"engineArgs.{name} is {arguments[name]}: up to {limit} can be frozen; set checkpoint.policy Disabled"
            )
    if arguments.get("distributed_executor_backend", "mp") not in ("mp", "uni"):
        return "engineArgs.distributed_executor_backend must be mp for a checkpoint"
    return None


def placement(config: WorkerConfig) -> WeightsPlacement:
    """Where the weights of this worker's checkpoint are: always in the image where there is no GPU."""
    return config.checkpoint.weights if gpus().count else WeightsPlacement.IN_IMAGE


def start_helper(context: Context) -> CudaHelper | None:
    """Start the CUDA helper if this worker has GPUs and may freeze or thaw."""
    if context.settings.config.checkpoint.policy is CheckpointPolicy.DISABLED or not gpus().count:
        launch.discard()
        return None
    return CudaHelper(context.stop.signalled)


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
    """Raises: OSError, msgspec.DecodeError."""
    return msgspec.json.decode((artifact.path / FILE).read_bytes(), type=OnGpu)


@dataclass(frozen=True)
class Gpu:
    """The GPUs of one start."""

    helper: CudaHelper
    context: Context

    # --- freezing ---

    def empty(self, engine: Engine, staging: Path, timeout: float) -> "Emptied":
        """Make the engine fit to be frozen, with its GPU memory in files of `staging` if it is to be outside the image.

        Raises: ControlError, OSError.
        """
        external = placement(self.context.settings.config) is WeightsPlacement.EXTERNAL
        directory = staging / WEIGHTS if external else None
        if directory is not None:
            directory.mkdir(mode=0o700)
        ranks = engine.client.quiesce(timeout, str(directory) if directory else None, PIECE)
        return Emptied(ranks, _memory(ranks) if external else None)

    def suspend(self, tree: ProcessTree, emptied: "Emptied", timeout: float) -> OnGpu:
        """Take the tree off the GPUs.

        Raises: CheckpointError.
        """
        members = tree.members()
        pids = self.helper.users(members)
        before = sum(map(procfs.resident, members))
        timings = self.helper.suspend(pids, timeout)
        log.event("off_gpu", pids=list(pids), resident=before, taken_over=sum(map(procfs.resident, members)) - before)
        for name, seconds in timings.items():
            self.context.board.timing(f"cuda_{name}", seconds)
        return OnGpu(pids=pids, gpus=self.helper.gpus(), memory=emptied.memory)

    # --- after a freeze, and thawing ---

    def load(self, directory: Path, on: OnGpu, digests: Sequence[Sequence[str]]) -> None:
        """Begin to bring GPU memory back from the files in `directory`. Returns at once.

        Raises: CheckpointError.
        """
        if on.memory is None:
            return
        verify = self.context.settings.config.checkpoint.verify is Verify.FULL
        known = on.gpus or self.helper.gpus()
        path = self.context.settings.paths.memory
        self.helper.load(path, directory, on.memory, digests if verify else None, known)

    def restore(self, on: OnGpu, timeout: float) -> None:
        """Put the tree back on the GPUs, without what `load` brings.

        Raises: CheckpointError.
        """
        for name, seconds in self.helper.restore(on, timeout).items():
            self.context.board.timing(f"cuda_{name}", seconds)

    def wake(
        self, engine: Engine, on: OnGpu, directory: Path, digests: Sequence[Sequence[str]], timeout: float
    ) -> None:
        """Give the engine its GPU memory: what `load` brought, or else the engine reads it from the files.

        Raises: CheckpointError (stage `weights`), ControlError.
        """
        board = self.context.board
        how = Wake()
        if on.memory is not None and self.helper.can_hand_over(on.gpus or self.helper.gpus()):
            with board.timed("weights_wait"):
                seconds = self.helper.wait_loaded(timeout)
            board.timing("weights", seconds.get("total", 0.0))
            how = Wake(memory=str(self.context.settings.paths.memory))
        elif on.memory is not None:
            verify = self.context.settings.config.checkpoint.verify is Verify.FULL
            how = Wake(
                files=[str(directory / rank.file) for rank in on.memory.ranks],
                piece=on.memory.piece,
                digests=[list(rank) for rank in digests] if verify else None,
            )
        with board.timed("wake"):
            try:
                engine.client.wake(how, max(timeout, CALL_TIMEOUT))
            except RefusedError as error:
                if OTHER_BYTES not in str(error):
                    raise
                raise CheckpointError(Reason.DIGEST_MISMATCH, "weights", str(error)) from error


@dataclass(frozen=True)
class Emptied:
    """What came of `Gpu.empty`. `memory`: None if it is in the processes' images."""

    ranks: Sequence[StoredRank]
    memory: Memory | None

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


def _memory(ranks: Sequence[StoredRank]) -> Memory:
    return Memory(
        piece=PIECE,
        ranks=tuple(
            Rank(file=rank.file, segments=tuple(Segment(tag, size) for tag, size in rank.segments)) for rank in ranks
        ),
    )
