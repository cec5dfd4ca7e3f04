"""Many workers on one directory: what is read is whole, the size stays bounded, a full disk is no error."""

import errno
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import GUARD_SECONDS, until
from vernal_worker.kv import eviction
from vernal_worker.kv.blockfile import HEADER_BYTES, BlockError, Failure, Files
from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.eviction import evict
from vernal_worker.kv.faults import Fault, FaultyFiles, Kind
from vernal_worker.kv.sizelimit import SizeLimit

SIZE = 4000  # a file is then just under one block of most filesystems
LAYOUT = Layout(b"l" * 32, 16, SIZE - HEADER_BYTES)


def key(number: int) -> bytes:
    return number.to_bytes(4, "big") * 8


def content(number: int) -> memoryview:
    return memoryview(bytearray(random.Random(number).randbytes(LAYOUT.payload_bytes)))


def read(store: BlockStore, number: int) -> bytes:
    into = bytearray(LAYOUT.payload_bytes)
    store.read(key(number), memoryview(into))
    return bytes(into)


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path, LAYOUT)


def test_saved_blocks_are_found_and_read(store: BlockStore) -> None:
    assert not store.contains(key(1))
    assert store.write(key(1), content(1)) is Saved.WRITTEN
    assert store.contains(key(1))
    assert read(store, 1) == content(1)
    assert store.write(key(1), content(2)) is Saved.PRESENT
    assert read(store, 1) == content(1), "the first one wins: under one key all contents are equal"


def test_layouts_do_not_see_each_other(store: BlockStore, tmp_path: Path) -> None:
    store.write(key(1), content(1))
    other = BlockStore(tmp_path, Layout(b"o" * 32, 16, LAYOUT.payload_bytes))
    assert not other.contains(key(1))
    other.path(key(1)).parent.mkdir(parents=True)
    os.link(store.path(key(1)), other.path(key(1)))
    with pytest.raises(BlockError) as caught:
        read(other, 1)
    assert caught.value.failure is Failure.SWAPPED


def test_a_bad_file_goes_and_makes_room_for_a_good_one(store: BlockStore) -> None:
    store.write(key(1), content(1))
    os.truncate(store.path(key(1)), 100)
    with pytest.raises(BlockError):
        read(store, 1)
    assert not store.contains(key(1))
    assert store.write(key(1), content(1)) is Saved.WRITTEN
    assert read(store, 1) == content(1)


class _Failing(Files):
    """Each read ends as `end` says."""

    def __init__(self, end: Callable[[Path], int]) -> None:
        self._end = end

    def read(self, path: str | Path, header: bytearray, payload: memoryview) -> int:
        return self._end(Path(path))


_ERRORS = "EMFILE ENFILE ENOMEM ETIMEDOUT ESTALE EIO EINTR EACCES EPERM ENOTCONN"


@pytest.mark.parametrize(
    "number",
    [getattr(errno, name) for name in _ERRORS.split()],
    ids=errno.errorcode.__getitem__,
)
def test_an_error_of_storage_or_process_deletes_no_good_block(store: BlockStore, number: int) -> None:
    store.write(key(1), content(1))

    def fail(path: Path) -> int:
        raise OSError(number, os.strerror(number), str(path))

    failing = BlockStore(store.root, LAYOUT, _Failing(fail))
    with pytest.raises(BlockError) as caught:
        read(failing, 1)
    assert caught.value.failure in (Failure.UNREADABLE, Failure.PERMISSION)
    assert read(store, 1) == content(1), "other workers read it well"


def test_a_process_without_file_descriptors_deletes_no_good_block(store: BlockStore) -> None:
    """The real thing: this process may open no more files."""
    store.write(key(1), content(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(BlockError) as caught:
            read(store, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.failure is Failure.UNREADABLE
    assert read(store, 1) == content(1)


def test_whoever_could_not_read_a_block_and_computes_it_replaces_it(store: BlockStore) -> None:
    """A file on a bad sector would otherwise fail every request that wants it."""
    other = store.root / "elsewhere"
    other.write_bytes(b"")
    path = store.path(key(1))
    path.parent.mkdir(parents=True)
    path.symlink_to(other)  # not followed: ELOOP, also for root
    with pytest.raises(BlockError) as caught:
        read(store, 1)
    assert caught.value.failure is Failure.UNREADABLE
    assert path.is_symlink()
    assert store.write(key(1), content(1)) is Saved.WRITTEN
    assert read(store, 1) == content(1)
    assert store.write(key(1), content(1)) is Saved.PRESENT


def test_a_block_that_took_the_place_of_a_bad_one_meanwhile_stays(store: BlockStore) -> None:
    store.write(key(1), content(1))
    os.truncate(store.path(key(1)), 100)

    def replaced(path: Path) -> int:
        path.unlink()
        store.write(key(1), content(1))
        return 100

    with pytest.raises(BlockError):
        read(BlockStore(store.root, LAYOUT, _Failing(replaced)), 1)
    assert read(store, 1) == content(1)


def test_readers_and_savers_and_evictors_at_the_same_time(store: BlockStore, tmp_path: Path) -> None:
    """A read gives the right bytes or says that it could not; files that are evicted meanwhile do not matter."""
    limit = 40 * 4096
    over = threading.Event()
    wrong: list[str] = []
    good = [0, 0]

    def saver(seed: int) -> None:
        draw = random.Random(seed)
        while not over.is_set():
            number = draw.randrange(100)
            if store.write(key(number), content(number)) not in (Saved.WRITTEN, Saved.PRESENT):
                wrong.append("not saved")
            good[0] += 1

    def reader(seed: int) -> None:
        draw = random.Random(seed)
        while not over.is_set():
            number = draw.randrange(100)
            try:
                if read(store, number) != content(number):
                    wrong.append("wrong bytes")
                good[1] += 1
            except BlockError as error:
                if error.failure is not Failure.MISSING:
                    wrong.append(str(error))

    def evictor() -> None:
        while not over.is_set():
            evict(tmp_path, limit)

    threads = [threading.Thread(target=saver, args=(i,)) for i in range(3)]
    threads += [threading.Thread(target=reader, args=(i,)) for i in range(3)]
    threads += [threading.Thread(target=evictor) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        until("many of each", lambda: min(good) > 300 or wrong)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    evict(tmp_path, limit)
    assert sum(entry.bytes for entry in eviction.scan(tmp_path)) <= limit


def test_an_open_file_outlives_its_eviction(store: BlockStore, tmp_path: Path) -> None:
    store.write(key(1), content(1))
    with store.path(key(1)).open("rb") as file:
        assert evict(tmp_path, 0).blocks == 1
        assert file.read()[HEADER_BYTES:] == content(1)


def test_eviction_takes_what_was_used_longest_ago(store: BlockStore, tmp_path: Path) -> None:
    now = time.time()
    for number in range(10):
        store.write(key(number), content(number))
        os.utime(store.path(key(number)), (now, now - 10_000 + number))
    read(store, 0)  # used now: it stays although it is the oldest
    evicted = evict(tmp_path, 5 * 4096)
    assert evicted.bytes_after <= 5 * 4096 * eviction.LOW_WATER
    left = {number for number in range(10) if store.contains(key(number))}
    assert left == {0, 7, 8, 9}


def test_below_the_limit_nothing_goes(store: BlockStore, tmp_path: Path) -> None:
    store.write(key(1), content(1))
    assert evict(tmp_path, 4096).blocks == 0
    assert store.contains(key(1))


def test_the_size_limit_holds_while_blocks_are_saved(store: BlockStore, tmp_path: Path) -> None:
    limit = SizeLimit(tmp_path, 20 * 4096, Counters())
    for number in range(100):
        store.write(key(number), content(number))
        limit.added(SIZE)
        assert limit.wait(GUARD_SECONDS)
        assert sum(entry.bytes for entry in eviction.scan(tmp_path)) <= 21 * 4096
    assert store.contains(key(99))


def test_a_store_that_says_full_is_no_error(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, LAYOUT, FaultyFiles(Fault(kind=Kind.STORE_FULL)))
    assert store.write(key(1), content(1)) is Saved.FULL
    assert list(eviction.scan(tmp_path)) == [], "nothing half-written stays behind"


_FULL_DISK = """
import sys
from pathlib import Path
from test_store import LAYOUT, content, key
from vernal_worker.kv.blockstore import BlockStore
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.eviction import scan
from vernal_worker.kv.sizelimit import SizeLimit
store = BlockStore(Path(sys.argv[1]), LAYOUT)
outcomes = [str(store.write(key(number), content(number))) for number in range(200)]
before = len(list(scan(store.root)))
assert not [entry for entry in scan(store.root) if entry.path.endswith(".tmp")]
counters = Counters()
limit = SizeLimit(store.root, None, counters)
limit.full()
assert limit.wait(float(sys.argv[2]))
freed = int(counters.take()["evicted_blocks"])
print(outcomes.count("written"), outcomes.count("full"), before, freed, store.write(key(1000), content(1000)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem of its own")
def test_a_disk_that_is_full_takes_blocks_again_after_an_eviction(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(
                "unshare",
                "--mount",
                "sh",
                "-c",
                'mount -t tmpfs -o size=256k vernal-kv-test "$1" && exec "$0" -c "$2" "$1" "$3"',
            ),
            *(sys.executable, str(tmp_path), _FULL_DISK, str(GUARD_SECONDS)),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written, full, before, freed, last = done.stdout.split()
    assert int(written) == int(before) > 20
    assert int(full) == 200 - int(written)
    assert int(freed) >= int(before) // 20
    assert last == "written"
