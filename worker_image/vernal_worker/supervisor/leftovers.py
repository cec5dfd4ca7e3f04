"""Files outside of the run directory that an engine leaves behind when it is killed: shared memory in
/dev/shm.

/dev/shm belongs to the pod, not to the container: it outlives a restart and may be shared with other
containers. So only what is known to be an engine's is removed.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from vernal_worker.checkpoint import process
from vernal_worker.checkpoint.carry import SHM

_ENGINE_PREFIXES = ("psm_", "sem.mp-", "sem.loky-", "torch_", "link_remap.")
"""How multiprocessing, loky, torch and CRIU name theirs."""


def names() -> frozenset[str]:
    """What is there now."""
    with contextlib.suppress(OSError):
        return frozenset(entry.name for entry in SHM.iterdir())
    return frozenset()


def first_seen(directory: Path) -> frozenset[str]:
    """What was there when the first container of this pod started: written down in `directory`, which is the pod's. An
    engine whose container crashed has left what is not among it."""
    record = directory / "shm-before"
    with contextlib.suppress(OSError):
        return frozenset(record.read_text().split("\0"))
    found = names()
    with contextlib.suppress(OSError):
        record.write_text("\0".join(sorted(found)))
    return found


def sweep(before: frozenset[str]) -> None:
    """Remove an engine's shared memory that was not there `before`. The engine must be dead."""
    _remove(SHM / name for name in names() - before if name.startswith(_ENGINE_PREFIXES))


def make_room_for(frozen: process.Frozen) -> None:
    """Remove shared memory of the frozen tree that an earlier container of this pod thawed and left."""
    _remove(path for file in frozen.files if (path := Path(file.path)).parent == SHM)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
