"""Whatever happens in whatever order, the planner's promises hold, and in the end it has nothing left to
do.
"""

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from plan.simulator import World

WALKS_PER_BLOCK, BLOCKS, STEPS = 200, 5, 20

ROLLOUTS = (
    {"maxSurge": 1, "maxUnavailable": 0},
    {"maxSurge": 0, "maxUnavailable": 1},
    {"maxSurge": 2, "maxUnavailable": 2},
    {"maxSurge": "25%", "maxUnavailable": "25%"},
    {"maxSurge": "100%", "maxUnavailable": 0},
    {"maxSurge": 1, "minReadySeconds": 30, "progressDeadlineSeconds": 900},
    {"maxSurge": 1, "paused": True},
    {"maxSurge": 0, "maxUnavailable": "50%", "progressDeadlineSeconds": 600, "revisionHistoryLimit": 0},
)
CHECKPOINTS = (
    {"storage": {"claimName": "store"}},
    {"storage": {"claimName": "store"}, "startup": "WaitForCheckpoint"},
    {"policy": "Disabled"},
)
DISTURBANCES = ("evict", "delete", "crash", "blip", "cost")


def walk(seed: int, steps: int = STEPS) -> World:
    """A life of a pool, random but the same for the same seed."""
    random = Random(seed)
    raw: dict[str, Any] = {
        "replicas": random.randrange(6),
        "rollout": random.choice(ROLLOUTS),
        "checkpoint": random.choice(CHECKPOINTS),
    }
    world = World(random, capacity=random.choice((2, 4, 99)), raw=raw)
    for _ in range(steps):
        match random.randrange(11):
            case 0:
                world.edit(replicas=random.randrange(7))
            case 1:
                world.edit(image=f"worker:{random.randrange(4)}")
                luck = random.random()
                if luck < 0.2:
                    world.bad_revisions.add(world.revision)
                elif luck < 0.4:
                    world.single_revisions.add(world.revision)
            case 2:
                world.disturb(random.choice(DISTURBANCES))
            case 3:
                world.edit(rollout=random.choice(ROLLOUTS))
            case 10:
                world.ask_renewal()
            case 4 | 5 | 6:
                world.tick(random.choice((0.3, 2.0, 20.0, 200.0)))
            case _:
                pass
        world.reconcile(age=random.choice((0, 0, 0, 1, 3)), crash=random.random() < 0.1, twice=random.random() < 0.1)
    world.settle()
    return world


@pytest.mark.parametrize("block", range(BLOCKS))
def test_seeded_walks(block: int) -> None:
    rollbacks = unheard = 0
    for seed in range(block * WALKS_PER_BLOCK, (block + 1) * WALKS_PER_BLOCK):
        try:
            world = walk(seed)
            rollbacks, unheard = rollbacks + world.rollbacks, unheard + world.unheard
        except AssertionError as error:
            raise AssertionError(f"walk({seed}): {error}") from error
    assert unheard < WALKS_PER_BLOCK // 10, "renewals fail only where workers are silent"
    assert rollbacks > WALKS_PER_BLOCK // 20, "walks that never roll back show little"


def stalled(seed: int) -> World:
    """A roll of which one pod works, and in which pods of the old revision are lost and the scale changes."""
    random = Random(seed)
    patient = [one for one in ROLLOUTS if "progressDeadlineSeconds" not in one and not one.get("paused")]
    raw = {"replicas": random.randrange(2, 7), "rollout": random.choice(patient), "checkpoint": CHECKPOINTS[0]}
    world = World(random, raw=raw, calm=True)
    world.edit(image="worker:0")
    world.settle()
    world.edit(image="worker:1")
    world.single_revisions.add(world.revision)
    world.check_capacity()
    assert any(pod.broken for pod in world.pods.values()), "it does not stall"
    for _ in range(4):
        if random.random() < 0.3:
            world.edit(replicas=random.randrange(2, 11))
        else:
            world.disturb(random.choice(("evict", "delete")), but=world.revision)
        world.check_capacity()
    return world


@pytest.mark.parametrize("block", range(3))
def test_capacity_is_kept_while_a_roll_stalls(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        try:
            world = stalled(seed)
            world.settle()
            assert world.rollbacks == 1, "it does not end"
        except AssertionError as error:
            raise AssertionError(f"stalled({seed}): {error}") from error


class PoolMachine(RuleBasedStateMachine):
    """The same world, walked by hypothesis, which shrinks what it finds."""

    @initialize(
        seed=st.integers(0, 999),
        replicas=st.integers(0, 5),
        rollout=st.sampled_from(ROLLOUTS),
        checkpoint=st.sampled_from(CHECKPOINTS),
        capacity=st.sampled_from((2, 99)),
    )
    def create(self, seed: int, replicas: int, rollout: Any, checkpoint: Any, capacity: int) -> None:
        raw = {"replicas": replicas, "rollout": rollout, "checkpoint": checkpoint}
        self.world = World(Random(seed), capacity=capacity, raw=raw)

    @rule(replicas=st.integers(0, 6))
    def scale(self, replicas: int) -> None:
        self.world.edit(replicas=replicas)

    @rule(tag=st.integers(0, 3), works=st.sampled_from(("all", "one", "none")))
    def new_image(self, tag: int, works: str) -> None:
        self.world.edit(image=f"worker:{tag}")
        if works == "none":
            self.world.bad_revisions.add(self.world.revision)
        if works == "one":
            self.world.single_revisions.add(self.world.revision)

    @rule(rollout=st.sampled_from(ROLLOUTS))
    def new_rollout(self, rollout: Any) -> None:
        self.world.edit(rollout=rollout)

    @rule()
    def ask_renewal(self) -> None:
        self.world.ask_renewal()

    @rule(seconds=st.sampled_from((0.3, 2.0, 20.0, 200.0)))
    def time_goes_by(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(sort=st.sampled_from(DISTURBANCES))
    def disturb(self, sort: str) -> None:
        self.world.disturb(sort)

    @rule(age=st.integers(0, 3), crash=st.booleans(), twice=st.booleans())
    def reconcile(self, age: int, crash: bool, twice: bool) -> None:
        self.world.reconcile(age=age, crash=crash, twice=twice)

    @invariant()
    def plans_are_pure(self) -> None:
        if hasattr(self, "world"):
            self.world.reconcile()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
