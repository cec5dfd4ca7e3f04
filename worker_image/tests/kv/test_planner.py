"""What is offered, loaded and saved; the schedules in `test_schedules` check that it is also right."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

import pytest
from vernal_worker.kv.admission import Admission
from vernal_worker.kv.blockfile import Failure
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.loads import Block
from vernal_worker.kv.planner import Planner, Report, Scheduled

KEYS = [bytes([n]) * 32 for n in range(8)]
SIZE = 4


class Lookup:
    """What storage has to say when it is asked; `said` holds it back."""

    def __init__(self, hits: int, said: bool) -> None:
        self._hits, self.said = hits, said

    def hits(self) -> int | None:
        return self._hits if self.said else None


class Rig:
    """`silent` storage answers no lookup that is made from then on, until its `said` is set."""

    def __init__(self, present: int = 0, loads: bool = True, saves: bool = True, silent: bool = False) -> None:
        self.present = set(KEYS[:present])
        self.silent = silent
        self.lookups: list[Lookup] = []
        self.doubted: list[bytes] = []
        self.counters = Counters()
        self.now = 0.0
        self.planner = Planner(SIZE, self, self.counters, Admission(30.0, lambda: self.now), loads=loads, saves=saves)

    def ask(self, keys: Sequence[bytes]) -> Lookup:
        self.lookups.append(Lookup(sum(1 for _ in takewhile(self.present.__contains__, keys)), not self.silent))
        return self.lookups[-1]

    def doubt(self, lost: Iterable[bytes], behind: Iterable[bytes]) -> None:
        self.doubted += lost

    def match(
        self,
        request: str = "r",
        tokens: int = 34,
        computed: int = 0,
        load_async: bool = True,
        may_load: bool = True,
        keys: list[bytes] = KEYS,
    ) -> tuple[int | None, bool]:
        return self.planner.match(
            request, lambda: keys, tokens=tokens, computed=computed, may_load=may_load, load_async=load_async
        )


def test_it_offers_the_unbroken_prefix() -> None:
    rig = Rig(present=3)
    rig.present.add(KEYS[5])
    assert rig.match() == (12, True)
    assert rig.match(computed=8) == (4, True)
    assert rig.match(computed=12) == (0, False)
    assert rig.match(computed=5) == (0, False), "not at a block's edge"
    assert rig.match(may_load=False) == (0, False)


def test_the_last_token_is_left_to_compute() -> None:
    assert Rig(present=8).match(tokens=32) == (28, True)
    assert Rig(present=8).match(tokens=33) == (32, True)


def test_asking_again_costs_no_lookup() -> None:
    rig = Rig(present=2)
    for _ in range(100):
        rig.match()
    assert len(rig.lookups) == 1


def test_the_scheduler_goes_on_while_storage_is_asked() -> None:
    rig = Rig(present=3, silent=True)
    assert rig.match() == rig.match() == (None, False), "ask again later"
    assert rig.match(may_load=False) == (0, False), "nothing to wait for"
    assert rig.match(tokens=4) == (0, False), "nor here: the last token is always computed"
    assert len(rig.lookups) == 1
    assert rig.counters.take() == {}
    rig.lookups[0].said = True
    assert rig.match() == (12, True)
    assert rig.counters.take() == {"lookup_tokens:hit": 12, "lookup_tokens:miss": 20}


def test_a_request_that_need_not_wait_is_saved_as_far_as_storage_has_not_said_that_it_is_there() -> None:
    rig = Rig(present=3, loads=False, silent=True)
    assert rig.match() == (0, False)
    first = rig.planner.plan([Scheduled("r", 0, 4, range(9), replaced=True)])
    assert [block.key for block in first.saves] == KEYS[:1]
    rig.lookups[0].said = True
    second = rig.planner.plan([Scheduled("r", 4, 30)])
    assert [block.key for block in second.saves] == KEYS[3:]


def test_what_was_said_counts_while_storage_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that waits for room must not lose its place: it would if it asked for time every second."""
    now = 0.0
    monkeypatch.setattr("vernal_worker.kv.planner.monotonic", lambda: now)
    rig = Rig(present=3)
    assert rig.match() == (12, True)
    now, rig.silent = 100.0, True
    rig.present = set(KEYS[:1])
    assert rig.match() == rig.match() == (12, True)
    assert len(rig.lookups) == 2
    rig.lookups[1].said = True
    assert rig.match() == (4, True)


def test_what_was_said_does_not_count_after_a_load_that_failed() -> None:
    rig = Rig(present=4)
    rig.match()
    rig.match("other")
    rig.planner.allocate("r", [10, 11, 12, 13], 16)
    rig.silent = True
    rig.planner.observe({12}, ["r"], [Report(failures={12: Failure.MISSING, 13: Failure.SKIPPED})])
    assert rig.doubted == [KEYS[2]]
    assert rig.match("other") == (None, False)
    assert rig.match() == (None, False)
    rig.lookups[-1].said = rig.lookups[-2].said = True
    assert rig.match("other") == (16, True)
    assert rig.match() == (8, True)


def test_what_was_allocated_is_loaded_once() -> None:
    rig = Rig(present=3)
    rig.match(computed=4, load_async=False)
    rig.planner.allocate("r", [10, 11, 12, 13], 8)
    (load,) = rig.planner.plan([]).loads
    assert load.blocks == (Block(KEYS[1], 11), Block(KEYS[2], 12))
    assert load.wait
    assert rig.planner.plan([]).loads == ()


def test_what_would_take_longer_to_load_than_to_compute_is_computed() -> None:
    rig = Rig(present=8)
    for _ in range(2):  # the engine computes 40 tokens a second
        rig.planner.plan([Scheduled("long", 0, 40)])
        rig.now += 1.0
    rig.planner.plan([Scheduled("long", 0, 40)])
    rig.planner.observe((), (), [Report(rate=20.0), Report(rate=5.0), Report(rate=10.0)])  # blocks, by rank: 20 tokens
    assert rig.match() == (0, False)
    assert rig.match() == (0, False)
    assert rig.counters.take() == {"lookup_tokens:hit": 32, "lookup_tokens:miss": 0, "declined_tokens": 32}
    rig.planner.observe((), (), [Report(rate=10.0)])
    assert rig.match() == (32, True)
    rig.planner.allocate("r", range(9), 32)
    rig.present.discard(KEYS[0])
    other = [bytes([n]) * 32 for n in range(20, 28)]
    rig.present.update(other)
    assert rig.match("other", keys=other) == (0, False), "it would wait for the first"
    rig.planner.observe((), ["r"], [])
    assert rig.match("other", keys=other) == (32, True)
    rig.now += 30.0
    rig.planner.observe((), (), [Report(rate=1.0)])
    assert rig.match("other", keys=other) == (32, True), "nobody knows how fast the engine is now"


def test_a_second_request_waits_for_the_same_load() -> None:
    rig = Rig(present=3)
    rig.match("first")
    rig.planner.allocate("first", [10, 11, 12], 12)
    assert rig.match("second") == (None, False)
    rig.planner.observe((), ["first"], [])
    assert rig.match("second") == (12, True)


def test_blocks_are_saved_when_they_are_full_and_were_absent() -> None:
    rig = Rig(present=2)
    rig.match()
    rig.planner.allocate("r", [10, 11, 12, 13, 14], 8)
    first = rig.planner.plan([Scheduled("r", 8, 7, [10, 11, 12, 13, 14], replaced=True)])
    assert first.saves == (Block(KEYS[2], 12),)
    second = rig.planner.plan([Scheduled("r", 15, 5, [15, 16])])
    assert second.saves == (Block(KEYS[3], 13), Block(KEYS[4], 14))


def test_roles_do_only_their_part() -> None:
    consumer = Rig(present=2, saves=False)
    assert consumer.match() == (8, True)
    assert consumer.planner.plan([Scheduled("r", 0, 34, range(9), replaced=True)]).saves == ()
    producer = Rig(present=2, loads=False)
    assert producer.match() == (0, False)
    saves = producer.planner.plan([Scheduled("r", 0, 34, range(9), replaced=True)]).saves
    assert [block.key for block in saves] == KEYS[2:]


def test_after_a_failure_the_block_is_not_offered_again_and_is_saved_anew() -> None:
    rig = Rig(present=4)
    rig.match(load_async=False)
    rig.planner.allocate("r", [10, 11, 12, 13], 16)
    rig.planner.plan([Scheduled("r", 16, 4, [10, 11, 12, 13, 14], replaced=True)])
    failures = {12: Failure.CORRUPT, 13: Failure.SKIPPED}
    untrusted = rig.planner.observe({12, 13}, (), [Report(1, frozenset([KEYS[4]]), failures)])
    assert untrusted == {12, 13, 14}
    plan = rig.planner.plan([Scheduled("r", 8, 12)])
    assert [block.key for block in plan.saves] == [KEYS[2], KEYS[4]], "the skipped block is still in the store"
    assert plan.seen_failures == 1
    assert rig.match() == (8, True)


def test_behind_a_block_that_was_missing_all_are_saved_anew() -> None:
    """Eviction begins at the end: what was not tried is gone too, most likely."""
    rig = Rig(present=5)
    rig.match()
    rig.planner.allocate("r", range(10, 15), 20)
    rig.planner.plan([])
    rig.planner.observe(
        {12, 13, 14}, ["r"], [Report(failures={12: Failure.MISSING, 13: Failure.SKIPPED, 14: Failure.SKIPPED})]
    )
    plan = rig.planner.plan([Scheduled("r", 8, 26, range(10, 19), replaced=True)])
    assert [block.key for block in plan.saves] == KEYS[2:]


def test_a_request_that_is_over_is_forgotten() -> None:
    rig = Rig(present=4)
    rig.match()
    rig.planner.allocate("r", [10, 11, 12, 13], 16)
    rig.planner.finish("r")
    plan = rig.planner.plan([Scheduled("r", 0, 30)])
    assert (plan.loads, plan.saves) == ((), ())
    assert rig.planner.observe({10}, ["r"], []) == set()


class _Watched(list[int]):
    """Counts how many of its elements are looked at."""

    looked_at = 0

    def __iter__(self) -> Iterator[int]:
        for element in super().__iter__():
            _Watched.looked_at += 1
            yield element


class _WatchedSet(set[int]):
    def __contains__(self, element: object) -> bool:
        _Watched.looked_at += 1
        return super().__contains__(element)

    def __iter__(self) -> Iterator[int]:
        for element in super().__iter__():
            _Watched.looked_at += 1
            yield element


def _watched(rig: Rig, requests: int) -> None:
    """All requests decode; from here on their blocks are watched."""
    for number in range(requests):
        name = f"r{number}"
        rig.match(name)
        rig.planner.allocate(name, list(range(9)), 0)
        rig.planner.plan([Scheduled(name, 0, 34, list(range(9)), replaced=True)])
        request = rig.planner._requests[name]
        request.block_ids = _Watched(request.block_ids)
        request.unsaved = _WatchedSet(request.unsaved)
    _Watched.looked_at = 0


def test_a_decode_step_without_news_looks_at_no_block() -> None:
    rig = Rig()
    _watched(rig, 20)
    for step in range(100):
        assert rig.planner.plan([Scheduled(f"r{number}", 34 + step, 1) for number in range(20)]).saves == ()
        assert rig.planner.observe((), (), []) == set()
    assert rig.planner.observe((), ["r0"], []) == set(), "an end of a load is no news of blocks"
    assert rig.planner.observe((), (), [Report(failed_steps=1)]) == set()
    assert _Watched.looked_at == 0
    rig.planner.observe({3}, (), [])
    assert _Watched.looked_at > 0, "what is watched would have been seen"


def test_a_step_of_a_long_prompt_looks_at_its_own_blocks_only() -> None:
    """A prompt that is computed a little at a time costs as much as at once."""
    rig = Rig()
    rig.match()
    rig.planner.allocate("r", list(range(9)), 0)
    rig.planner._requests["r"].unsaved = unsaved = _WatchedSet(rig.planner._requests["r"].unsaved)
    rig.planner.plan([Scheduled("r", 0, 1, list(range(9)), replaced=True)])
    _Watched.looked_at = 0
    saved = [rig.planner.plan([Scheduled("r", done, 1)]).saves for done in range(1, 34)]
    assert [block.key for saves in saved for block in saves] == KEYS
    assert _Watched.looked_at <= len(KEYS)
    assert not unsaved
