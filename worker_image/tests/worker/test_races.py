"""Many workers at once on an empty store: one makes the checkpoint, all serve; and a dead creator blocks nobody."""

from pathlib import Path

from vernal_contract.state import FreezeOutcome
from worker_pod import Pod


def test_three_workers_and_a_dead_creator_on_an_empty_store(first_workers: list[Pod], store: Path) -> None:
    states = [pod.state() for pod in first_workers]
    print("three workers: " + ", ".join(f"ready after {s.timings['total']:.0f} s, {s.freeze}" for s in states))
    assert [state.start_mode for state in states] == ["Cold"] * 3
    outcomes = [state.freeze.outcome for state in states if state.freeze]
    assert outcomes.count(FreezeOutcome.PUBLISHED) == 1, [pod.log() for pod in first_workers]
    assert set(outcomes) <= {FreezeOutcome.PUBLISHED, FreezeOutcome.SKIPPED, FreezeOutcome.PUBLISHED_BY_OTHER}
    assert len({pod.complete() for pod in first_workers}) == 1
    (identity,) = {state.identity for state in states}  # other tests' workers race for artifacts of their own
    (directory,) = store.glob(f"artifacts/{identity}/*")
    assert len([path for path in directory.iterdir() if path.is_dir() and path.name[0].isdigit()]) == 1
    assert list((store / "leases").glob(f"{identity}-*")) == []
    # That later ones thaw, with the same answers, is what every other test here builds upon.
