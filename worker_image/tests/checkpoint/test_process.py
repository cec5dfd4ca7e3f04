"""process.json writes nowhere but where a worker's own files are, whoever wrote it."""

import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint import carry, process
from vernal_worker.checkpoint.carry import Carried
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.images import Memory
from vernal_worker.checkpoint.process import Frozen

FILE, DIRECTORY, LINK, FIFO = (kind | 0o600 for kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO))
SHM = Path("/dev/shm")


def frozen(*entries: tuple[str, int] | tuple[str, int, str], **fields: Any) -> Frozen:
    files = tuple(
        Carried(path=path, mode=mode, uid=0, gid=0, mtime_ns=0, target=target[0] if target else None)
        for path, mode, *target in entries
    )
    plain = {"root": 1, "pids": (), "ids": (), "stdout": "", "stderr": "", "roots": ("/dev/shm",), "files": files}
    return Frozen(**{**plain, **fields})


@pytest.mark.parametrize(
    "bad",
    [
        frozen(roots=("/etc",)),
        frozen(("/etc/passwd", FILE)),
        frozen(("/dev/shm/../../etc/passwd", FILE)),
        frozen(("/dev/shm/a/b", FILE)),  # whose directory it has not
        frozen(("/dev/shm/a", LINK, "/etc"), ("/dev/shm/a/passwd", FILE)),
        frozen(("/dev/shm/a", FILE, "/etc/shadow")),
        frozen(("/dev/shm/a", FIFO)),
        frozen(("relative", FILE)),
        frozen(memory=(Memory(pid=1, file="../../../etc/shadow", runs=()),)),
    ],
    ids=range(9),
)
def test_what_leads_anywhere_else_is_refused(bad: Frozen) -> None:
    with pytest.raises(CheckpointError) as refused:
        process.confine(bad, [SHM])
    assert refused.value.reason is Reason.MANIFEST_INVALID


def test_what_is_collected_is_accepted(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/file").write_text("x")
    (root / "hard").hardlink_to(root / "deep/er/file")
    (root / "soft").symlink_to("/anywhere")
    files = carry.collect([root], tmp_path / "data", lambda: None)
    process.confine(msgspec.structs.replace(frozen(), roots=(str(root),), files=tuple(files)), [root, SHM])
