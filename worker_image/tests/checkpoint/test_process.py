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
        frozen(("/dev/shm/a", LINK, "/etc"), ("/dev/shm/a", DIRECTORY), ("/dev/shm/a/ld.so.preload", FILE)),
        frozen(("/dev/shm/a", DIRECTORY), ("/dev/shm/a", LINK, "/etc"), ("/dev/shm/a/ld.so.preload", FILE)),
        frozen(("/dev/shm", LINK, "/etc"), ("/dev/shm/ld.so.preload", FILE)),
    ],
    ids=range(11),
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


def test_a_directory_that_another_has_made_a_link_is_not_gone_into(tmp_path: Path) -> None:
    """/dev/shm belongs to the pod: another container may have put a link where a directory is to be."""
    data, root, outside = tmp_path / "data", tmp_path / "root", tmp_path / "outside"
    data.touch()
    root.mkdir()
    outside.mkdir()
    (root / "a").symlink_to(outside)
    files = frozen((str(root / "a"), DIRECTORY), (str(root / "a/file"), FILE)).files
    with pytest.raises(CheckpointError) as refused:
        carry.lay(files, data, lambda: None)
    assert refused.value.reason is Reason.SHM_FAILED and not list(outside.iterdir())


GOOD: dict[str, Any] = {
    "root": 400,
    "pids": [400, 410],
    "ids": [400, 401, 410],
    "stdout": "pipe:[1]",
    "stderr": "pipe:[2]",
    "roots": ["/dev/shm"],
    "files": [
        {"path": "/dev/shm/a", "mode": FILE, "uid": 0, "gid": 0, "mtime_ns": 1, "size": 9, "extents": [[0, 2], [5, 3]]}
    ],
    "memory": [{"pid": 400, "file": "memory-400.bin", "runs": [[0x7000_0000_0000, 2]]}],
    "mapped": [["/usr/bin/env", [[0, 4096]]]],
}
SIZES = {process.DATA: 5, "memory-400.bin": 2 * 4096}


def refusal(data: bytes) -> str:
    with pytest.raises(CheckpointError) as refused:
        process.decode(data, SIZES)
    assert refused.value.reason is Reason.MANIFEST_INVALID and refused.value.message.startswith("process.json: ")
    return refused.value.message


def changed(**fields: Any) -> bytes:
    return msgspec.json.encode({**GOOD, **fields})


def with_file(**fields: Any) -> bytes:
    return changed(files=[{**GOOD["files"][0], **fields}])


def with_memory(*runs: tuple[int, int], file: str = "memory-400.bin", **fields: Any) -> bytes:
    return changed(memory=[{"pid": 400, "file": file, "runs": runs, **fields}])


def test_what_a_freeze_writes_is_read() -> None:
    assert process.decode(changed(), SIZES).ids == (400, 401, 410)


WRONG: dict[str, Any] = {
    "text that is no UTF-8": (changed().replace(b"/dev/shm", b"/dev/\xff\xff"), "UTF-8"),
    "no PID at all": (changed(ids=[]), "among its PIDs"),
    "a root that is not of the tree": (changed(root=401), "among its PIDs"),
    "process 1": (changed(ids=[1, 400, 401, 410]), "1 is no PID"),
    "every process": (changed(ids=[-1, 400, 401, 410]), "-1 is no PID"),
    "a PID of no kernel": (changed(ids=[400, 401, 410, 2**70]), "is no PID"),
    "one pipe for both outputs": (changed(stderr="pipe:[1]"), "two pipes"),
    "a file as output": (changed(stderr="/etc/shadow"), "two pipes"),
    "a mode below zero": (with_file(mode=-1), "mode"),
    "a mode of 70 bits": (with_file(mode=2**70), "mode"),
    "an owner of 70 bits": (with_file(uid=2**70), "owner"),
    "a time of 70 bits": (with_file(mtime_ns=2**70), "it cannot be of"),
    "a path with a NUL": (with_file(path="/dev/shm/\0"), "is no path"),
    "a size of 70 bits": (with_file(size=2**70), "bytes"),
    "data before its file": (with_file(extents=[[-5, 5]]), "data at -5"),
    "data of less than nothing": (with_file(extents=[[0, 10], [5, -5]]), "data at 5"),
    "data twice": (with_file(extents=[[0, 3], [2, 2]]), "data at 2"),
    "data behind its file": (with_file(size=7), "data up to 8"),
    "more data than there is": (with_file(size=2**40, extents=[[0, 2**40]]), "files.bin has 5 bytes"),
    "data of a directory": (with_file(mode=DIRECTORY), "is no file"),
    "more memory than there is": (with_memory((0, 2**50)), "no memory of"),
    "memory of less than nothing": (with_memory((0, 4), (0, -2)), "-2 pages"),
    "memory below zero": (with_memory((-4096, 2)), "at -4096"),
    "memory of another process": (with_memory((0, 2), pid=1), "its process 1"),
    "memory from elsewhere": (with_memory((0, 2), file="../../../etc/shadow"), "no memory of"),
    "memory that is a directory": (with_memory((0, 2), file=".."), "no memory of"),
    "a list of ranges without end": (changed(mapped=[["/usr/bin/env", [[0, 2**70]]]]), "no such ranges"),
    "a mapped path with a NUL": (changed(code=[["/usr/bin/\0", []]]), "no such ranges"),
}


@pytest.mark.parametrize(("data", "why"), WRONG.values(), ids=WRONG)
def test_numbers_that_no_freeze_writes_are_refused(data: bytes, why: str) -> None:
    assert why in refusal(data)
