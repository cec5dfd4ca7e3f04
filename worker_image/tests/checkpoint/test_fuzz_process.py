"""process.json of a checkpoint, whoever wrote it: refused with the package's own error, or laid back inside the
worker's own directories, and with numbers that a thaw can work with."""

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from fuzz.documents import texts, unfolded
from fuzz.limits import bounded, outside, touched
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint import carry, memory, process, reading_ahead
from vernal_worker.checkpoint.carry import Carried
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.process import Frozen
from vernal_worker.checkpoint.reading_ahead import MappedFile
from vernal_worker.checkpoint.taken import PAGE, Memory

SHM = "/dev/shm"
DIRECTORY, FILE, LINK = (kind | 0o600 for kind in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK))
MEMORY = 3 * PAGE


def entry(path: str, mode: int, **more: Any) -> Carried:
    return Carried(path=path, mode=mode, uid=0, gid=0, mtime_ns=1_700_000_000_000_000_000, **more)


def document(root: str) -> Any:
    """A good one, whose carried directory is `root`."""
    frozen = Frozen(
        root=400,
        pids=(400, 410),
        ids=(400, 401, 410),
        stdout="pipe:[4711]",
        stderr="pipe:[4712]",
        roots=(root,),
        files=(
            entry(root, DIRECTORY),
            entry(f"{root}/file", FILE, size=100, extents=((0, 10), (50, 20))),
            entry(f"{root}/hard", FILE, target=f"{root}/file"),
            entry(f"{root}/soft", LINK, target="/outside"),
            entry(f"{root}/deep", DIRECTORY),
            entry(f"{root}/deep/other", FILE, size=5, extents=((0, 5),)),
        ),
        memory=(Memory(pid=400, file="memory-400.bin", runs=((0x7000_0000_0000, 2), (0x7000_0100_0000, 1))),),
        mapped=(MappedFile("/usr/bin/env", ((0, PAGE),)),),
        code=(MappedFile("/usr/bin/env", ((0, 2 * PAGE),)),),
    )
    return json.loads(msgspec.json.encode(frozen))


SIZES = {process.DATA: 35, "memory-400.bin": MEMORY}
REFUSED = (Reason.MANIFEST_INVALID, Reason.SHM_FAILED, Reason.FILE_SIZE_MISMATCH)
PLACE = f"/dev/shm/vernal-fuzz-{os.getpid()}"


@PROFILE
@given(texts(st.just(document(PLACE))))
def test_it_is_refused_or_lays_files_back_in_their_place_alone(data: bytes) -> None:
    place, outer = Path(PLACE), Path(tempfile.mkdtemp(dir=SHM, prefix="vernal-fuzz-"))
    (outer / process.DATA).write_bytes(bytes(SIZES[process.DATA]))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        with bounded(), touched() as paths:
            try:
                frozen = process.decode(data, SIZES)
                process.confine(frozen, [place])
                carry.lay(frozen.files, outer / process.DATA, lambda: None)
            except CheckpointError as error:
                assert error.reason in REFUSED and error.stage == "files"
                return
            finally:
                assert not outside(paths, place, outer)
        assert process.decode(msgspec.json.encode(frozen), SIZES) == frozen
        assert carry.contents([place]) == {Path(each.path) for each in frozen.files} | {place}
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(outer)


@PROFILE
@given(texts(st.just(document(PLACE))))
def test_what_is_accepted_takes_a_thaw_a_bounded_time_and_memory(data: bytes) -> None:
    with bounded():
        try:
            frozen = process.decode(data, SIZES)
        except CheckpointError as error:
            assert error.reason is Reason.MANIFEST_INVALID and error.message.startswith(process.NAME)
            return
        assert frozen.ids and min(frozen.ids) > 1 and frozen.root in frozen.pids
        assert sum(each.bytes for each in frozen.memory) <= MEMORY
        for each in frozen.memory:
            assert len(list(memory.cut(each.runs))) <= MEMORY // PAGE
        for file in (*frozen.mapped, *frozen.code):
            reading_ahead._ask(file)
            reading_ahead._ask_slowly(file, 0)


def test_the_good_one_is_good() -> None:
    good = json.dumps(unfolded(document(PLACE))).encode()
    process.confine(process.decode(good, SIZES), [Path(PLACE)])
