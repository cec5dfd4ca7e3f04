"""Short lives of a pool. Each can be run without faults, which gives the reference, and with one fault or many."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controlplane.cases import Case, pool
from controlplane.proxy import Call, Fault

from thaw_operator.kinds import CHECKPOINTS, JOBS

Step = Callable[[Case], Callable[[], bool]]
"""Does something as a user would; returns what tells that the operator has answered it."""


@dataclass(frozen=True)
class Scenario:
    """`prepare` runs without faults, `steps` with them. `most` and `fewest_ready`: see `cases.Invariants`."""

    name: str
    steps: tuple[Step, ...]
    prepare: tuple[Step, ...] = ()
    most: int = 10**9
    fewest_ready: int = 0


def create(replicas: int, **spec: Any) -> Step:
    def step(case: Case) -> Callable[[], bool]:
        case.create(pool(replicas=replicas, **spec))
        return lambda: case.settled(replicas)

    return step


def scale(replicas: int) -> Step:
    def step(case: Case) -> Callable[[], bool]:
        case.change(replicas=replicas)
        return lambda: case.settled(replicas)

    return step


def roll(replicas: int) -> Step:
    def step(case: Case) -> Callable[[], bool]:
        case.change(image="worker:2")
        return lambda: case.settled(replicas)

    return step


def delete(case: Case) -> Callable[[], bool]:
    case.delete_pool()
    return lambda: not case.items(CHECKPOINTS)


UP = Scenario("up", steps=(create(2, autoscaling={"maxReplicas": 4}),), most=3)
SCALE = Scenario("scale", prepare=(create(1),), steps=(scale(3), scale(1)), most=4, fewest_ready=1)
ROLL = Scenario("roll", prepare=(create(2),), steps=(roll(2),), most=3, fewest_ready=2)
NO_RETENTION = {"storage": {"claimName": "store"}, "retention": {"unusedSeconds": 0}}
DELETE = Scenario("delete", prepare=(create(1, checkpoint=NO_RETENTION),), steps=(delete,))
ALL = (UP, SCALE, ROLL, DELETE)


@dataclass
class Reference:
    """A run without faults: how many writes, what they were, and what there is in the end."""

    writes: list[Call]
    picture: dict[str, Any]


def run(
    case: Case, scenario: Scenario, fault: Callable[[int, Call], Fault | None] = lambda index, call: None
) -> list[Call]:
    """Run it; `fault` is asked about each call from `steps` on, with the number of the write (-1 for reads).

    A dead operator is started again. Returns the writes of `steps`.
    """
    case.start()
    for step in scenario.prepare:
        _go(case, step)
        _still(case)
    case.invariants.most = scenario.most
    case.invariants.fewest_ready = scenario.fewest_ready
    before = len(case.proxy.writes())
    since = time.monotonic()
    case.proxy.fault = lambda call: fault(call.index - before if call.is_write else -1, call)
    for step in scenario.steps:
        _go(case, step)
    _still(case)
    if scenario is DELETE:
        case.invariants.fewest_ready = 0
    return case.proxy.writes(since)


def _go(case: Case, step: Step) -> None:
    done = step(case)

    def probe() -> bool:
        if case.operator is None or not case.operator.alive:
            case.restart()
        return done()

    case.wait(step.__qualname__, probe, timeout=60)


def _still(case: Case) -> None:
    """Wait until no write came for a while."""

    def probe() -> bool:
        if case.operator is None or not case.operator.alive:
            case.restart()
            return False
        writes = case.proxy.writes()
        return not writes or time.monotonic() - writes[-1].at > 0.8

    case.wait("no more writes", probe, timeout=30)


__all__ = ["ALL", "DELETE", "JOBS", "ROLL", "SCALE", "UP", "Reference", "Scenario", "run"]
