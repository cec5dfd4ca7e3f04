"""A prompt is loaded unless it is known that computing it takes less time."""

import pytest
from vernal_worker.kv.admission import Admission


class Rig:
    def __init__(self, seconds: float = 30.0) -> None:
        self.now = 100.0
        self.admission = Admission(seconds, lambda: self.now)

    def compute(self, rate: int, seconds: float = 2.0, step: float = 0.25) -> None:
        """The engine is busy for so long, with `rate` tokens a second."""
        for _ in range(round(seconds / step) + 1):
            self.admission.scheduled(round(rate * step))
            self.now += step


def test_what_is_not_known_is_worth_a_try() -> None:
    rig = Rig()
    assert rig.admission.worth(10**9, 0)
    rig.admission.loaded(1.0)
    assert rig.admission.worth(10**9, 0), "the engine may be slower still"
    rig.compute(20_000)
    assert not rig.admission.worth(10**9, 0)


def test_loads_that_are_under_way_come_first() -> None:
    rig = Rig()
    rig.compute(20_000)
    rig.admission.loaded(18_000)
    assert rig.admission.worth(12_000, 0)
    assert not rig.admission.worth(12_000, 12_000)
    assert rig.admission.worth(100_000, 12_000), "a long prompt gains more than it waits for"


def test_a_store_is_as_fast_as_it_was_at_its_best_and_tried_again_after_a_while() -> None:
    rig = Rig(seconds=30.0)
    rig.admission.loaded(50_000)
    rig.compute(20_000)
    rig.admission.loaded(1_000)
    assert rig.admission.worth(12_000, 0)
    rig.now += 27.9
    rig.compute(20_000)
    rig.admission.loaded(1_000)
    assert not rig.admission.worth(12_000, 0), "it was fast long ago"
    rig.now += 30.0
    assert rig.admission.worth(12_000, 0)


@pytest.mark.parametrize("pauses", [True, False])
def test_an_engine_with_little_to_do_is_not_taken_for_a_slow_or_a_fast_one(pauses: bool) -> None:
    """What it computes between pauses, or one token at a time, says nothing about prompts, and loading goes on."""
    rig = Rig()
    rig.admission.loaded(2_000)
    for _ in range(100):
        rig.admission.scheduled(5_000 if pauses else 10)
        rig.now += 0.01
        if pauses:
            rig.admission.scheduled(0)
            rig.now += 1.0
    assert rig.admission.worth(12_000, 0)


def test_without_a_memory_everything_is_loaded() -> None:
    rig = Rig(seconds=0.0)
    rig.compute(20_000)
    rig.admission.loaded(1.0)
    assert rig.admission.worth(12_000, 0)
