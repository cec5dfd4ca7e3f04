"""Calls in random order, a few of the 10,000 that `make library-fuzz` makes."""

from pathlib import Path

import fuzz_plan
from programs import Frozen, run

HERE = Path(__file__).parent


def test_calls_in_random_order(frozen: Frozen, tmp_path: Path) -> None:
    """No hang, no leak, every exception of a documented class; what is wrong, the program says."""
    arguments = ("--calls", "120", "--seed", "20", "--place", str(frozen.place), "--log", str(tmp_path / "log"))
    shown = run(HERE / "fuzz_calls.py", *arguments)
    assert " 0 faults" in shown.splitlines()[-1], shown


def test_the_order_is_the_seeds_and_has_every_kind() -> None:
    whole = list(fuzz_plan.plan(7, 10_000))
    assert whole == list(fuzz_plan.plan(7, 10_000)) != list(fuzz_plan.plan(8, 10_000))
    assert {step.kind for step in whole} == fuzz_plan.WEIGHTS.keys()
    assert {"freeze", "kill", "close"} <= {step.kind for step in fuzz_plan.plan(7, 20)}
