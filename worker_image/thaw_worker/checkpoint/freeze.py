"""Write a running process tree into a directory and leave it running."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thaw_worker.checkpoint.tree import ProcessTree

SHM = Path("/dev/shm")  # noqa: S108


@dataclass(frozen=True)
class FreezeResult:
    """What was frozen. `timings`: seconds by step (`criu`, `files`, `frozen` = how long the tree stood still, `total`)."""

    timings: dict[str, float]
    pids: tuple[int, ...]
    pipes: tuple[str, ...]  # CRIU's names of the stdio pipes, e.g. "pipe:[4711]"
    files: tuple[str, ...]  # carried files, e.g. /dev/shm/psm_1234
    bytes: int  # of everything in the directory


def freeze(
    tree: ProcessTree,
    image_dir: Path,
    *,
    criu: str = "criu",
    timeout: float,
    work_dir: Path,
    cancel: threading.Event | None = None,
    carry: Sequence[Path] = (SHM,),
) -> FreezeResult:
    """Dump `tree` into `image_dir` (created; empty) and let it run on.

    Whoever must be quiet is quiet already: no connection leads out of the tree (the control connection included), no
    CUDA state is on a device. CUDA goes around this call: lock and checkpoint every CUDA process, freeze, then restore
    and unlock, whether or not the freeze worked.

    Args:
        criu: program name or path.
        timeout: for the whole call.
        work_dir: local directory for CRIU's logs (`dump.log`); made if absent.
        cancel: set it from another thread to give up; the call then returns within a second or so.
        carry: directories whose whole content belongs to the tree and is laid back before a thaw: on another node they
            are empty. Files and directories that the tree has open, mapped or bound sockets in must be in one of
            them, in the image, or on a volume that every pod mounts.

    Raises:
        CheckpointError: `CRIU_MISSING`, `CRIU_DUMP_FAILED`, `SHM_FAILED`, `FREEZE_TIMEOUT`, `FREEZE_GIVEN_UP` (cancelled),
            `STORE_FULL`. The tree runs on (see `CheckpointError.tree_intact`), no `link_remap.*` is left behind; what is
            in `image_dir` is worthless.
    """
    raise NotImplementedError
