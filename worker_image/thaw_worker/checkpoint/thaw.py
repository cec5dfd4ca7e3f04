"""Bring a frozen process tree back to life."""

import threading
from dataclasses import dataclass
from pathlib import Path

from thaw_worker.checkpoint.tree import ProcessTree


@dataclass(frozen=True)
class ThawResult:
    """The tree, a child of the caller, and seconds by step (`files`, `criu`, `total`)."""

    tree: ProcessTree
    timings: dict[str, float]


def thaw(
    image_dir: Path,
    *,
    criu: str = "criu",
    timeout: float,
    work_dir: Path,
    cancel: threading.Event | None = None,
) -> ThawResult:
    """Restore what `freeze` wrote. `image_dir` is only read: any number of nodes may thaw it at once.

    Lays the carried files back, gives the tree new stdout and stderr pipes, restores it under its old PIDs as a child
    of the caller. The tree runs when this returns; CUDA state is restored by the caller afterwards.

    Args:
        work_dir: local directory for CRIU's logs (`restore.log`); made if absent, old logs removed.
        cancel: set it from another thread to give up.

    Raises:
        CheckpointError: `CRIU_MISSING`, `CRIU_RESTORE_FAILED`, `SHM_FAILED`, `THAW_TIMEOUT`, `FREEZE_GIVEN_UP` (cancelled),
            `FILE_MISSING` and `MANIFEST_INVALID` (`process.json`), and stage `pids` if a PID is taken. Whatever came up is
            killed and reaped, every PID of the tree is free again, and the files laid are removed.
    """
    raise NotImplementedError
