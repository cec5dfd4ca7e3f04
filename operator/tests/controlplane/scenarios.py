"""Short lives of a pool. Each can be run without faults, which gives the reference, and with one fault or many."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from controlplane.cases import METRIC, Case, Server, pool
from controlplane.node import UNPULLABLE
from controlplane.proxy import Call, Fault
from vernal_operator.kinds import CHECKPOINTS, PODS

T = TypeVar("T")
R = TypeVar("R")

PARALLEL = int(os.environ.get("VERNAL_TEST_PARALLEL", "24"))
QUIET_SECONDS = 10.0
POINT_QUIET_SECONDS = 5.0
"""After each of the many faults; runs without one are watched for longer."""

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


def break_image(case: Case) -> Callable[[], bool]:
    """An image that cannot be pulled, and time enough for it."""
    case.change(image=UNPULLABLE, rollout={"progressDeadlineSeconds": 86400})
    return lambda: case.serves(2, starting=1)


def lose_a_pod(case: Case) -> Callable[[], bool]:
    """A pod that serves goes, its node with it."""
    old = next(pod for pod in case.items(PODS) if pod["spec"]["containers"][0]["image"] != UNPULLABLE)
    case.client.delete(PODS, case.namespace, old["metadata"]["name"], old["metadata"]["uid"])
    lost = old["metadata"]["uid"]
    # In this order: until it is gone, it is one of two that serve.
    return lambda: lost not in {pod["metadata"]["uid"] for pod in case.items(PODS)} and case.serves(2, starting=1)


def scale_while_broken(replicas: int) -> Step:
    def step(case: Case) -> Callable[[], bool]:
        case.change(replicas=replicas)
        return lambda: case.serves(replicas, starting=1)

    return step


def let_time_be_up(replicas: int) -> Step:
    def step(case: Case) -> Callable[[], bool]:
        case.change(rollout={"progressDeadlineSeconds": 1})
        return lambda: case.serves(replicas, starting=0) and "rejected" in case.get_pool()["status"]

    return step


def fix_image(replicas: int) -> Step:
    def step(case: Case) -> Callable[[], bool]:
        case.change(image="worker:3", rollout={"progressDeadlineSeconds": None})
        return lambda: case.settled(replicas) and "rejected" not in case.get_pool()["status"]

    return step


def delete(case: Case) -> Callable[[], bool]:
    case.delete_pool()
    return lambda: not case.items(CHECKPOINTS)


UP = Scenario("up", steps=(create(2, autoscaling={"maxReplicas": 4, "metrics": [METRIC]}),), most=3)
SCALE = Scenario("scale", prepare=(create(1),), steps=(scale(3), scale(1)), most=4, fewest_ready=1)
ROLL = Scenario("roll", prepare=(create(2),), steps=(roll(2),), most=3, fewest_ready=2)
ROLLBACK = Scenario(
    "rollback",
    prepare=(create(2),),
    steps=(break_image, lose_a_pod, scale_while_broken(4), let_time_be_up(4), fix_image(4)),
    most=5,
    fewest_ready=1,  # the one that is lost
)
NO_RETENTION = {"storage": {"claimName": "store"}, "retention": {"unusedSeconds": 0}}
DELETE = Scenario("delete", prepare=(create(1, checkpoint=NO_RETENTION),), steps=(delete,))
ALL = (UP, SCALE, ROLL, ROLLBACK, DELETE)


@dataclass
class Reference:
    """A run without faults: how many writes, what they were, and what there is in the end."""

    writes: list[Call]
    picture: dict[str, Any]


def reference(server: Server, scenario: Scenario, of: str) -> Reference:
    """A run without faults, after which nothing is called. `of` makes its namespace's name unique."""
    with Case(server, f"{of}-{scenario.name}") as case:
        since = run(case, scenario)
        case.assert_quiet(QUIET_SECONDS)
        case.invariants.check()
        return Reference(case.proxy.writes(since), case.picture())


def in_parallel(call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Most of the time a case waits, so many run at once, each with its own operator in its own namespace."""
    with ThreadPoolExecutor(PARALLEL) as threads:
        return list(threads.map(call, items))


def run(
    case: Case,
    scenario: Scenario,
    fault: Callable[[int, Call], Fault | None] = lambda index, call: None,
    begin: Callable[[], None] = lambda: None,
) -> float:
    """Run it. From `steps` on, which `begin` is called before, `fault` is asked about each call, with the number of
    the write (-1 for reads).

    A dead operator is started again. Returns when `steps` began, in the time of `Call.at`.
    """
    case.start()
    for step in scenario.prepare:
        go(case, step)
        _still(case)
    case.expect(most=scenario.most, fewest_ready=scenario.fewest_ready)
    before = len(case.proxy.writes())
    since = time.monotonic()
    begin()
    case.proxy.fault = lambda call: fault(call.index - before if call.is_write else -1, call)
    for step in scenario.steps:
        go(case, step)
    _still(case)
    return since


def go(case: Case, step: Step) -> None:
    """Do it, and wait until it is answered. A dead operator is started again."""
    done = step(case)

    def probe() -> bool:
        if case.operator is None or not case.operator.alive:
            case.restart()
        return done()

    case.wait(getattr(step, "__qualname__", "the next step"), probe)


def _still(case: Case) -> None:
    """Wait until no write came for a while."""

    def probe() -> bool:
        if case.operator is None or not case.operator.alive:
            case.restart()
            return False
        writes = case.proxy.writes()
        return all(time.monotonic() - call.over > 0.8 for call in writes)

    case.wait("no more writes", probe)
