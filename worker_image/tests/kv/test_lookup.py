"""Lookups keep nobody waiting, ask for little, and say that a block is there only if it most likely is."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kv_engine_model import BLOCK_BYTES, BLOCK_TOKENS
from patience import GUARD_SECONDS, until
from vernal_worker.kv import lookup as module
from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.keys import Salt, block_keys
from vernal_worker.kv.lookup import NEAR, Breaker, Lookup
from vernal_worker.kv.scheduler_side import Prompt, SchedulerSide
from vernal_worker.kv.settings import Settings

KEYS = block_keys([1] * 4 * 8192, 4)
"""Of a prompt of 128k tokens, where a block has 16."""


class Storage(BlockStore):
    """Has `present`; does not answer a question about `hang` before `go`."""

    def __init__(self, present: int = 0, rank: int = 0) -> None:
        super().__init__(Path("/nowhere"), Layout(bytes([rank]) * 32, BLOCK_TOKENS, BLOCK_BYTES))
        self.present = set(KEYS[:present])
        self.hang: set[bytes] = set()
        self.asked: list[bytes] = []
        self.go = threading.Event()

    def contains(self, key: bytes) -> bool:
        self.asked.append(key)
        if key in self.hang:
            assert self.go.wait(GUARD_SECONDS)
        return key in self.present


class Rig:
    """`clock` is the time that lookups see."""

    def __init__(self, *stores: Storage, cooldown: float = 100.0, guess: bool = True) -> None:
        self.stores = stores
        self.counters = Counters()
        self.breaker = Breaker(cooldown, self.counters)
        self.lookup = Lookup(stores, 1.0, self.breaker, self.counters, guess=guess)

    def hits(self, keys: list[bytes] = KEYS) -> int:
        """When this returns, the threads that asked have also remembered what storage said."""
        for store in self.stores:
            store.asked.clear()
        hits = self.lookup.ask(keys).hits(GUARD_SECONDS)
        assert hits is not None and self.lookup._workers.drain(GUARD_SECONDS)
        return hits


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    yield clock


def test_the_scheduler_does_not_wait_for_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage says nothing until it is let go. The request is told to ask again, and finds its blocks when it does."""
    storage = Storage(4)
    storage.hang = set(KEYS)
    monkeypatch.setattr(SchedulerSide, "make_store", lambda *_: storage)
    settings = Settings(shared_storage_path=str(tmp_path), lookup_timeout_seconds=GUARD_SECONDS)
    side = SchedulerSide(settings, Counters(), block_tokens=4, ranks=1, loads=True, saves=True)
    side.connect([storage.layout])
    prompt = Prompt("r", [1] * 18, 18, Salt, True)
    answers: list[tuple[int | None, bool]] = []
    scheduler = threading.Thread(target=lambda: answers.append(side.match(prompt, 0)))
    scheduler.start()
    until("storage is asked", lambda: storage.asked)
    until("the scheduler goes on", lambda: not scheduler.is_alive())
    assert answers == [(None, False)]
    assert side.match(prompt, 0) == (None, False)
    storage.go.set()
    until("storage's answer", lambda: side.match(prompt, 0)[0] is not None)
    assert side.match(prompt, 0) == (16, True)
    side.release()


@pytest.mark.parametrize("present", [0, 1, 2, NEAR, NEAR + 1, 5000, len(KEYS) - 1, len(KEYS)])
@pytest.mark.parametrize("ranks", [1, 8])
def test_a_long_prompt_costs_few_questions(present: int, ranks: int) -> None:
    rig = Rig(*[Storage(present, rank) for rank in range(ranks)])
    assert rig.hits() == present
    most = 1 if present == 0 else 42
    assert all(len(store.asked) <= most for store in rig.stores)


def test_where_a_failed_load_costs_a_request_every_key_is_asked_for() -> None:
    rig = Rig(Storage(5000), guess=False)
    for _ in range(2):
        assert rig.hits() == 5000
        assert rig.stores[0].asked == KEYS[:5001], "up to the first that is not there, and nothing is remembered"


def test_a_block_must_be_there_for_all_ranks() -> None:
    rig = Rig(Storage(5000, 0), Storage(3, 1), Storage(4000, 2))
    assert rig.hits() == 3
    rig.stores[1].present = set(KEYS)
    assert rig.hits() == 4000


def test_of_what_was_there_only_the_last_is_asked_for_again(clock: Clock) -> None:
    rig = Rig(Storage(100))
    assert rig.hits(KEYS[:100]) == 100
    assert rig.hits(KEYS[:100]) == 100
    assert rig.stores[0].asked == [KEYS[99]]
    assert rig.hits(KEYS[:110]) == 100
    assert rig.stores[0].asked == [KEYS[99], KEYS[100]], "what is absent may come at any time"
    clock.now += module.KNOWN_SECONDS
    assert rig.hits(KEYS[:100]) == 100
    assert len(rig.stores[0].asked) > 2


@pytest.mark.parametrize("left", [0, 1, 50, 99])
def test_what_was_evicted_is_not_offered(left: int) -> None:
    rig = Rig(Storage(100))
    assert rig.hits(KEYS[:100]) == 100
    rig.stores[0].present = set(KEYS[:left])
    assert rig.hits(KEYS[:100]) == left
    assert rig.hits(KEYS[:100]) == left


def test_a_block_that_could_not_be_loaded_is_asked_for_by_itself() -> None:
    """A hole in the middle, where the guess is wrong: it costs one load that fails, and no more."""
    rig = Rig(Storage(5000))
    rig.stores[0].present.discard(KEYS[2500])
    assert rig.hits() == 5000
    rig.lookup.doubt([KEYS[2500]], KEYS[2500:])
    assert rig.hits() == 2500
    assert rig.hits() == 2500
    rig.stores[0].present.add(KEYS[2500])
    assert rig.hits() == 5000
    assert rig.hits() == 5000


def test_behind_a_block_that_was_missing_others_are_not_believed_to_be_there() -> None:
    rig = Rig(Storage(5000))
    assert rig.hits() == 5000
    rig.stores[0].present = {*KEYS[:4000], KEYS[4999]}
    assert rig.hits() == 5000, "a guess, and wrong"
    rig.stores[0].present.discard(KEYS[4999])
    rig.lookup.doubt([KEYS[4000]], KEYS[4000:])
    assert rig.hits() == 4000
    rig.stores[0].present.add(KEYS[4000])
    assert rig.hits() == 4001


def test_a_hole_where_a_prompt_is_just_being_saved_is_seen() -> None:
    """Several threads write its blocks, and the last ones do not appear in order."""
    rig = Rig(Storage(5000))
    rig.stores[0].present.discard(KEYS[5000 - NEAR // 2])
    assert rig.hits() == 5000 - NEAR // 2


def test_what_storage_said_in_time_counts_and_storage_that_hangs_is_left_alone(clock: Clock) -> None:
    rig = Rig(Storage(3))
    rig.stores[0].hang = {KEYS[1]}
    answer = rig.lookup.ask(KEYS[:3])
    until("storage hangs", lambda: KEYS[1] in rig.stores[0].asked)
    assert answer.hits() is None
    clock.now += 1.0
    assert answer.hits() == 1
    assert rig.breaker.open
    assert rig.counters.take()["pauses:load_slow"] == 1
    assert rig.lookup.ask(KEYS[:1]).hits() == 0, "the breaker is open"
    rig.stores[0].go.set()
    assert rig.lookup._workers.drain(GUARD_SECONDS)
    assert answer.hits() == 1, "what comes later changes nothing"
    clock.now += 100.0
    assert rig.hits(KEYS[:3]) == 3


def test_a_lookup_that_is_late_while_others_are_answered_leaves_the_store_on(clock: Clock) -> None:
    rig = Rig(Storage(3))
    rig.stores[0].hang = {KEYS[0]}
    late = rig.lookup.ask(KEYS[:3])
    until("storage hangs", lambda: rig.stores[0].asked)
    clock.now += 0.9
    assert rig.lookup.ask(KEYS[1:2]).hits(GUARD_SECONDS) == 1
    clock.now += 0.1
    assert late.hits() == 0
    assert not rig.breaker.open
    rig.stores[0].go.set()


def test_lookups_that_are_late_again_and_again_turn_the_store_off(clock: Clock) -> None:
    rig = Rig(Storage(3))
    rig.stores[0].hang = {KEYS[0]}
    for count in range(3):
        assert not rig.breaker.open
        late = rig.lookup.ask(KEYS[:3])
        until("storage hangs", lambda count=count: rig.stores[0].asked.count(KEYS[0]) == count + 1)  # type: ignore[misc]
        clock.now += 1.0
        rig.lookup._heard = clock.now  # by others
        assert late.hits() == 0
    assert rig.breaker.open
    rig.stores[0].go.set()


def test_waiting_for_other_lookups_is_not_being_late(clock: Clock) -> None:
    """A burst: all threads are busy with others, and storage answers them."""
    rig = Rig(Storage(3))
    rig.stores[0].hang = {KEYS[0]}
    busy = [rig.lookup.ask(KEYS[:3]) for _ in range(module.THREADS)]
    until("all threads are busy", lambda: len(rig.stores[0].asked) == module.THREADS)
    queued = rig.lookup.ask(KEYS[1:3])
    clock.now += 1.0
    rig.lookup._heard = clock.now  # one of them, say
    assert queued.hits() is None
    patient = rig.lookup.ask(KEYS[1:3])
    clock.now += 3.0
    rig.lookup._heard = clock.now
    assert queued.hits() == 0, "there is an end to that, too"
    assert patient.hits() is None
    rig.stores[0].go.set()
    assert patient.hits(GUARD_SECONDS) == 2
    assert all(answer.hits(GUARD_SECONDS) is not None for answer in busy)
    assert not rig.breaker.open


def test_a_lookup_that_no_thread_takes_up_ends_all_the_same(clock: Clock) -> None:
    rig = Rig(Storage(3))
    rig.stores[0].hang = {KEYS[0]}
    busy = [rig.lookup.ask(KEYS[:3]) for _ in range(module.THREADS)]
    until("all threads are busy", lambda: len(rig.stores[0].asked) == module.THREADS)
    queued = rig.lookup.ask(KEYS[1:3])
    clock.now += 1.0
    assert queued.hits() == 0
    assert rig.breaker.open
    rig.stores[0].go.set()
    assert all(answer.hits(GUARD_SECONDS) is not None for answer in busy)
