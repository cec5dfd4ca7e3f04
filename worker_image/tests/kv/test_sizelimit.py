"""Of many workers on one store, one at a time looks through it, and once a minute is enough for all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import GUARD_SECONDS
from vernal_worker.kv import eviction, sizelimit
from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.keys import block_keys
from vernal_worker.kv.sizelimit import RESCAN_SECONDS, SizeLimit, lease_key
from vernal_worker.store.errors import Touch
from vernal_worker.store.lease import LeaseRequest, Owner

LAYOUT = Layout(b"l" * 32, 4, 100)
FILE = 4096
PODS = 8


class World:
    """Workers on one store, with a clock that the test moves and a count of how often the store was looked through."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.now = 10_000.0
        self.scans = 0
        self.store = BlockStore(root, LAYOUT)
        self.workers = [SizeLimit(root, limit, Counters()) for _ in range(PODS)]

    def save(self, worker: SizeLimit, token: int) -> None:
        (key,) = block_keys([token] * 4, 4)
        self.store.write(key, memoryview(bytearray(100)))
        worker.added(FILE)
        assert worker.wait(GUARD_SECONDS)

    def size(self) -> int:
        return sum(1 for _ in self.root.glob("*/*/*.kv"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, 20 * FILE)
    scan = eviction.scan

    def counted(root: Path) -> Iterator[eviction.Entry]:
        world.scans += 1
        return scan(root)

    monkeypatch.setattr(eviction, "scan", counted)
    monkeypatch.setattr(sizelimit, "monotonic", lambda: world.now)
    yield world
    monkeypatch.undo()
    assert all(worker.stop(GUARD_SECONDS) for worker in world.workers)


def test_the_store_is_looked_through_once_a_minute_however_many_save(world: World) -> None:
    for minute in range(3):
        for round_ in range(2):
            for number, worker in enumerate(world.workers):
                world.save(worker, number)
            assert world.scans == minute + 1, round_
        world.now += RESCAN_SECONDS


def test_a_worker_knows_from_the_others_how_large_the_store_is(world: World) -> None:
    first, second, *_ = world.workers
    world.save(first, 0)
    for token in range(1, 19):
        world.save(first, token)
    world.now += RESCAN_SECONDS
    world.save(first, 19)
    assert (world.scans, world.size()) == (2, 20)
    world.save(second, 20)
    assert (world.scans, world.size()) == (2, 21), "it has heard of 20, and counts from there on"
    world.save(second, 21)
    assert world.scans == 3
    assert world.size() == 18, "0.9 of the limit"
    world.save(first, 22)
    assert world.scans == 3


def test_while_another_evicts_nobody_does(world: World) -> None:
    other = LeaseRequest(lease_key(world.root), Owner(pod="other"), 1000.0, Touch()).try_acquire()
    assert other is not None
    for token in range(30):
        world.save(world.workers[0], token)
    assert (world.scans, world.size()) == (0, 30)
    other.release()
    world.now += RESCAN_SECONDS
    world.save(world.workers[0], 30)
    assert (world.scans, world.size()) == (1, 18)


def test_the_lease_is_given_back(world: World) -> None:
    for token in range(30):
        world.save(world.workers[token % PODS], token)
    assert world.scans > 0
    assert list(lease_key(world.root).lease.parent.iterdir()) == []


def test_after_a_stop_nothing_is_begun(world: World) -> None:
    worker = world.workers[0]
    assert worker.stop(GUARD_SECONDS)
    for token in range(30):
        world.save(worker, token)
    worker.full()
    assert (world.scans, world.size()) == (0, 30)


def test_a_store_that_cannot_be_written_is_left_alone_for_a_while(world: World) -> None:
    (world.root / "leases").write_text("in the way")
    for token in range(30):
        world.save(world.workers[0], token)
    assert world.scans == 0
    (world.root / "leases").unlink()
    world.now += RESCAN_SECONDS
    world.save(world.workers[0], 30)
    assert world.scans == 1


def test_a_damaged_record_is_as_none(world: World) -> None:
    (world.root / eviction.RECORD_NAME).write_text("{")
    world.save(world.workers[0], 0)
    world.save(world.workers[1], 1)
    assert world.scans == 1
