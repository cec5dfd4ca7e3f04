"""Random walks through specs, in the manner of Acto (Gu et al., SOSP 2023): where one ends must not depend on the way.

A walk changes one property of the pool after the other, sometimes before the operator has answered, while pods and
children vanish, the operator is killed and calls fail. What it leaves is compared with a pool that was made with the
last spec in a namespace of its own. A walk that fails is made shorter for as long as it still fails.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any

from controlplane.cases import METRIC, Case, Server, condition, pool
from controlplane.faults import Bench, Calls, FaultClass, judge, without_history
from controlplane.node import UNPULLABLE
from controlplane.proxy import Call, Fault, Watches
from controlplane.scenarios import go
from vernal_operator.api.parse import parse_pool
from vernal_operator.client import ApiError
from vernal_operator.kinds import BUDGETS, CHECKPOINTS, JOBS, PODS, POOLS, SERVICES, Kind
from vernal_operator.plan.rollout import bounds

RUNS, STEPS = 40, 8
TRIALS, SHRINK_SECONDS = 24, 600.0
"""To make a failed walk shorter: how often it is walked at most, and for how long in all. Fewer trials give a longer
walk, and no other verdict.
"""

ROLLOUTS = (
    {"maxSurge": 1, "maxUnavailable": 0},
    {"maxSurge": 0, "maxUnavailable": 1},
    {"maxSurge": 2, "maxUnavailable": 2},
    {"maxSurge": "100%", "maxUnavailable": "25%"},
    {"maxSurge": 1, "minReadySeconds": 1},
    {"paused": True},
    {"paused": False},
    {"progressDeadlineSeconds": 2},  # a revision that cannot be pulled is given up
    {"progressDeadlineSeconds": None},
    {"revisionHistoryLimit": 0},
)
CHANGES: dict[str, tuple[Any, ...]] = {
    "replicas": (0, 1, 2, 3, 4),
    "image": ("worker:1", "worker:2", "worker:3", UNPULLABLE),
    "engineArgs": ({"max_model_len": 1024}, {"max_model_len": 2048}, None),
    "env": ([{"name": "A", "value": "1"}], [{"name": "A", "value": "2"}, {"name": "B", "value": "1"}], None),
    "rollout": ROLLOUTS,
    "autoscaling": ({"maxReplicas": 5, "metrics": [METRIC]}, {"maxReplicas": 7, "metrics": [METRIC]}, None),
    "disruptionBudget": ({"maxUnavailable": 2}, {"maxUnavailable": "50%"}, None),
    "terminationGracePeriodSeconds": (120, 200),
    "podTemplate": ({"metadata": {"labels": {"team": "a"}}}, {"metadata": {"annotations": {"note": "b"}}}, None),
    "checkpoint": (
        {"retention": {"unusedSeconds": 0}},
        {"retention": {"unusedSeconds": 86400}},
        {"startup": "WaitForCheckpoint"},
        {"startup": "Immediate"},
    ),
}
BLOWS = ("lose a pod", "lose the Service", "lose the budget", "kill the operator", "expire the watches")
MEND = {
    "rollout": {"paused": False, "progressDeadlineSeconds": None},
    "podTemplate": {"metadata": {"annotations": {"mended": "yes"}}},
}
"""What makes every spec one that is reached: a revision that was never given up, and time for it."""


@dataclass(frozen=True)
class Step:
    """One thing that happens: a change of a field to a value, or a blow without one. `wait`: until it is answered."""

    what: str
    value: Any = None
    wait: bool = False

    def __str__(self) -> str:
        change = self.what if self.what in BLOWS else f"{self.what}={self.value!r}"
        return f"{change}, wait" if self.wait else change


def drawn(seed: int) -> list[Step]:
    """The walk of a seed."""
    random, steps = Random(f"walk {seed}"), []
    for _ in range(STEPS):
        wait = random.random() < 0.5
        if random.random() < 0.25:
            steps.append(Step(random.choice(BLOWS), wait=wait))
        else:
            field = random.choice(sorted(CHANGES))
            steps.append(Step(field, random.choice(CHANGES[field]), wait))
    return steps


def failing_calls(seed: int) -> Calls:
    """Calls that fail all along the walk: none in every third."""
    random = Random(f"walk-faults {seed}")
    share = 0.0 if seed % 3 == 0 else random.uniform(0.02, 0.2)
    faults = (
        Fault(drop="before"), Fault(drop="after"), Fault(status=409), Fault(status=429, retry_after=1),
        Fault(status=500), Fault(status=500, done=True), Fault(status=503), Fault(seconds=0.5),
    )  # fmt: skip

    def calls(index: int, call: Call) -> Fault | None:
        if call.is_watch or call.is_lease or call.is_discovery or random.random() >= share:
            return None
        return random.choice(faults)

    return calls


def walk(server: Server, namespace: str, steps: list[Step], calls: Calls, patience: float) -> int:
    """Walk, and compare with a pool made at once. Returns how many calls failed. Raises AssertionError."""
    with ExitStack() as stack:
        case = stack.enter_context(Case(server, namespace, patience=patience))
        case.start()
        go(case, _create(pool(replicas=1)))
        case.wait("the first pod to be seen", lambda: case.invariants.knows(case.items(PODS)))
        _expect(case, only=True)
        case.proxy.fault = lambda call: calls(call.index, call)
        for step in steps:
            go(case, lambda case, step=step: _take(case, step))  # type: ignore[misc]
        go(case, _mend)
        case.proxy.fault = lambda call: None
        injected = case.proxy.injected
        fresh = stack.enter_context(Case(server, f"{namespace}-fresh", patience=patience))
        fresh.start()
        go(fresh, _create({**pool(), "spec": case.get_pool()["spec"]}))
        fresh.assert_quiet(2)
        judge(case, fresh.picture(), starts=None, view=_end)
    return injected


def _create(manifest: dict[str, Any]) -> Callable[[Case], Callable[[], bool]]:
    def step(case: Case) -> Callable[[], bool]:
        case.create(manifest)
        return lambda: case.settled(manifest["spec"]["replicas"])

    return step


def _take(case: Case, step: Step) -> Callable[[], bool]:
    lost: dict[str, Kind] = {"lose a pod": PODS, "lose the Service": SERVICES, "lose the budget": BUDGETS}
    if step.what in lost:
        if step.what == "lose a pod":  # one that is ready, perhaps
            case.invariants.fewest_ready = max(0, case.invariants.fewest_ready - 1)
        _lose(case, lost[step.what])
    elif step.what == "kill the operator":
        case.restart()
    elif step.what == "expire the watches":
        case.proxy.set_watches(Watches(error=410))
        case.proxy.set_watches(Watches())
    else:
        _change(case, **{step.what: step.value})
    return (lambda: _answered(case)) if step.wait else (lambda: True)


def _change(case: Case, **spec: Any) -> None:
    """Change the spec. Until that is answered the operator may go by the one before."""
    _expect(case, **spec)
    case.change(**spec)


def _expect(case: Case, *, only: bool = False, **changed: Any) -> None:
    """Have surge and floor checked at every event, by the spec as it will be; and by those before, unless `only` it
    counts any more.
    """
    spec = case.get_pool()["spec"]
    rollout = spec.get("rollout", {}) | changed.get("rollout", {})
    parsed, error = parse_pool({
        "spec": spec | {
            "replicas": changed.get("replicas", spec["replicas"]),
            "rollout": {name: value for name, value in rollout.items() if value is not None},
        }
    })  # fmt: skip
    assert parsed is not None, error
    limits, expected = bounds(parsed.replicas, parsed.rollout), case.invariants
    expected.most = limits.ceiling if only else max(expected.most, limits.ceiling)
    expected.fewest_ready = limits.floor if only else min(expected.fewest_ready, limits.floor)


def _lose(case: Case, kind: Kind) -> None:
    for item in case.items(kind)[:1]:
        try:
            case.client.delete(kind, case.namespace, item["metadata"]["name"], item["metadata"]["uid"])
        except ApiError as error:
            if not error.not_found:  # the operator was quicker
                raise


def _answered(case: Case) -> bool:
    """Settled; or, where that cannot be, the spec was seen."""
    found = case.get_pool()
    spec = found["spec"]
    unreachable = spec["image"] == UNPULLABLE or spec["rollout"].get("paused") or "rejected" in found.get("status", {})
    if unreachable:
        return bool(found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"])
    if not case.settled(spec["replicas"]):
        return False
    pods = case.items(PODS)
    whole = all(condition(pod, "Ready") == "True" and "deletionTimestamp" not in pod["metadata"] for pod in pods)
    if whole and case.invariants.knows(pods):  # nothing that was before is still to be seen
        _expect(case, only=True)
    return True


def _mend(case: Case) -> Callable[[], bool]:
    """A spec that can be reached."""
    spec = case.get_pool()["spec"]
    image = {"image": "worker:1"} if spec["image"] == UNPULLABLE else {}
    _change(case, **MEND, **image, replicas=max(1, spec["replicas"]))  # without any there may be no checkpoint
    return lambda: case.settled(case.get_pool()["spec"]["replicas"])


def _end(picture: dict[str, Any]) -> dict[str, Any]:
    """What a walk leaves, without what is history: other revisions, other checkpoints, who thawed and who did not."""
    (found,) = picture[POOLS.name]
    status = {k: v for k, v in found["status"].items() if k not in ("restoredReplicas", "coldStartedReplicas")}
    kept = status.get("checkpoint", {}).get("name")
    checkpoints = [item["spec"] for item in picture[CHECKPOINTS.name] if item["metadata"]["name"] == kept]
    rest = {kind: items for kind, items in without_history(picture).items() if kind != JOBS.name}
    pools = [{"spec": found["spec"], "status": status}]
    return rest | {POOLS.name: pools, CHECKPOINTS.name: checkpoints}


def shrunk(fails: Callable[[list[Step]], bool], steps: list[Step], trials: int = TRIALS) -> list[Step]:
    """The shortest walk found that still fails: ever smaller pieces are left out (Zeller's ddmin)."""
    size = len(steps) // 2
    while size and trials:
        start = 0
        while start < len(steps) and trials:
            shorter = steps[:start] + steps[start + size :]
            trials -= 1
            if fails(shorter):
                steps = shorter
            else:
                start += size
        size //= 2
    return steps


def _one(bench: Bench, namespace: str, seed: int) -> int:
    steps = drawn(seed)
    try:
        return walk(bench.server, namespace, steps, failing_calls(seed), bench.patience)
    except AssertionError as error:
        trial, until = 0, time.monotonic() + SHRINK_SECONDS

        def fails(shorter: list[Step]) -> bool:
            nonlocal trial
            if (left := until - time.monotonic()) <= 0:
                return False
            trial += 1
            try:
                walk(bench.server, f"{namespace}-{trial}", shorter, failing_calls(seed), min(left, bench.patience))
            except AssertionError:
                return True
            return False

        said = "\n  ".join(map(str, shrunk(fails, steps)))
        raise AssertionError(f"{error}\nthe walk, made shorter in {trial} trials:\n  {said}") from error


WALKS = FaultClass(
    "walk", f"{STEPS} random changes, blows and failing calls", lambda bench: RUNS, _one,
    lambda bench, seed: "; ".join(map(str, drawn(seed))),
)  # fmt: skip
