"""The shutdown matrix's half that is Vernal's (`make shutdown-matrix` prints both), and some of its kills."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from shutdown import kills, ours
from shutdown.promises import Findings
from worker_pod import Pod

StartPod = Callable[..., Pod]


@pytest.mark.parametrize("scenario", ours.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promises(thawed: ours.Thawed, scenario: Callable[[ours.Thawed, Findings], None]) -> None:
    found = Findings()
    scenario(thawed, found)
    assert found.found and not found.broken(), found.broken()


def test_a_signal_during_the_thaw(creator: Pod, start_pod: StartPod, store: Path) -> None:
    found = Findings()
    ours.signal_in_thaw(start_pod, store, found)
    assert not found.broken(), found.broken()


@pytest.mark.parametrize("number, phase", list(enumerate(["thawing", "ready", "ready", "draining", "draining"])))
def test_kill_9(thawed: ours.Thawed, start_pod: StartPod, creator: Pod, store: Path, number: int, phase: str) -> None:
    """`python -m shutdown kills` does a hundred of them."""
    killed = kills.one(thawed, start_pod, store, phase, random.Random(number))
    assert killed.problem is None, killed
