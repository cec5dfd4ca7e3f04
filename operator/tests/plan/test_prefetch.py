"""Nodes have a checkpoint before a pod is there: which ones, how many, and never again and again."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import HOST_TUPLE, IDENTITY, NOW, artifact, creator, published, ready, snapshot, spec, worker
from plan.test_warm import EVICTED, MISS, other, report, use
from vernal_contract import state
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.pod import NodeCache
from vernal_operator.plan import plan, plan_checkpoint
from vernal_operator.plan.model import (
    CheckpointDecisions,
    CheckpointSnapshot,
    CheckpointView,
    JobView,
    NodeCaches,
    NodeView,
    PoolUse,
    Refused,
    WorkerUse,
)
from vernal_operator.plan.prefetch import AGAIN_SECONDS, PAUSE_SECONDS

[MANIFEST] = plan(snapshot(spec(), ready(0, worker=creator()))).create_checkpoints
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Published",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


def user(wanted: VLLMWorkerPoolSpec | None = None, **fields: Any) -> PoolUse:
    values = {"name": "p", "restore_attempts": 3, "retain": False, "unused_seconds": 3600, "makes": True}
    return PoolUse(**(values | {"spec": wanted or spec()} | fields))


@dataclass
class World:
    """An API server with nodes and Jobs, as an operator sees them that carries out what is decided."""

    nodes: list[NodeView]
    cache: NodeCache = field(default_factory=lambda: NodeCache("/c", 1000, 3, 2))
    users: tuple[PoolUse, ...] = field(default_factory=lambda: (user(),))
    told: tuple[WorkerUse, ...] = ()
    view: CheckpointView = field(default_factory=lambda: published(MANIFEST, generation="g1", conditions=[READY]))
    jobs: dict[str, JobView] = field(default_factory=dict)
    now: float = NOW
    announced: set[str] = field(default_factory=set)
    made: list[str] = field(default_factory=list)  # nodes, in the order of their Jobs
    reasons: list[str] = field(default_factory=list)
    refused: tuple[Refused, ...] = ()

    def look(self) -> CheckpointSnapshot:
        own = tuple(u for u in self.told if u.worker.artifact is not None)
        caches = NodeCaches(
            cache=self.cache, machines=tuple(self.nodes), told=self.told, fetches=tuple(self.jobs.values())
        )
        return CheckpointSnapshot(
            now=self.now, checkpoint=self.view, users=self.users, workers=own, caches=caches,
            announced=frozenset(self.announced), refused=self.refused,
        )  # fmt: skip

    def step(self, crash: int = 99) -> CheckpointDecisions:
        """One round of the operator, which dies after so many writes; in the order of `act.actor`."""
        done = plan_checkpoint(self.look())
        writes: list[Any] = [*done.remove, *done.create, *([done.status] if done.status is not None else [])]
        for write in writes[:crash]:
            if write is done.status:
                self.view = replace(self.view, status=write)
                for event in done.events:
                    self.announced.add(event.key)
                    self.reasons.append(event.reason)
            elif isinstance(write, dict):
                name, told = write["metadata"]["name"], write["metadata"]["annotations"]
                if name not in self.jobs:
                    node = told["vernal.dev/node"]
                    self.jobs[name] = JobView(
                        name, f"{name}/{len(self.made)}", node=node, generation=told["vernal.dev/generation"]
                    )
                    self.made.append(node)
            elif self.jobs.get(write.name) is not None and self.jobs[write.name].uid == write.uid:
                del self.jobs[write.name]
        return done

    def settle(self) -> None:
        for _ in range(20):
            if not self.step():
                return
        raise AssertionError("it never settles")

    def end(self, node: str, **said: Any) -> None:
        """The Job on a node ends so; without a word, it was killed."""
        (job,) = [job for job in self.jobs.values() if job.node == node]
        words = state.encode_cache(NodeCacheReport(told_at=self.now, **said)).decode() if said else ""
        good = said.get("fill") == CacheFill.FILLED or said.get("lookup") == CacheLookup.HIT
        self.jobs[job.name] = replace(job, succeeded=good, failed=not good, ended=self.now, said=words, message="why")

    @property
    def running(self) -> set[str]:
        return {job.node for job in self.jobs.values() if job.ended is None}

    @property
    def warm(self) -> set[str]:
        return {node["name"] for node in self.view.status.get("nodes", []) if node["cached"]}


def machines(*names: str, **fields: Any) -> list[NodeView]:
    return [NodeView(name=name, **fields) for name in names]


FILL, FULL, FAIL = ({"fill": fill} for fill in (CacheFill.FILLED, CacheFill.FULL, CacheFill.FAILED))


def test_as_many_nodes_as_are_wanted_fetch_it_a_few_at_a_time() -> None:
    world = World(machines("a", "b", "c", "d"))
    world.settle()
    assert world.running == {"a", "b"}
    world.end("a", **FILL)
    world.settle()
    assert (world.running, world.warm) == ({"b", "c"}, {"a"})
    for node in ("b", "c"):
        world.end(node, lookup=CacheLookup.HIT)
        world.settle()
    assert (world.warm, world.jobs, world.made) == ({"a", "b", "c"}, {}, ["a", "b", "c"]), "d is one too many"
    assert world.view.status["warmNodes"] == 3 and world.reasons == []


@pytest.mark.parametrize(
    ("world", "why"),
    [
        (World(machines("a"), cache=NodeCache("/c", 1000)), "it is off"),
        (World(machines("a", ready=False)), "no pod can be there"),
        (World(machines("a"), users=()), "nobody uses it"),
        (World(machines("a"), users=(user(makes=False),)), "no pods are made of it"),
        (World(machines("a"), users=(user(elsewhere=frozenset({"a"})),)), "it is a host of another kind"),
        (World(machines("a", kernel="5.4.0-1")), "and so is this"),
        (World(machines("a", architecture="arm64")), "and this"),
        (World(machines("a"), users=(user(spec(resources={"limits": {"nvidia.com/gpu": 1}})),)), "it has no GPU"),
        (World(machines("a"), view=replace(published(MANIFEST), status={})), "it is not published"),
        (World(machines("a"), told=(use(report()),)), "the worker there fills it itself"),
    ],
)
def test_who_does_not(world: World, why: str) -> None:
    world.settle()
    assert not world.made, why


def test_without_prefetch_the_status_says_nothing_of_it() -> None:
    world = World(machines("a"), cache=NodeCache("/c", 1000))
    world.settle()
    assert "prefetch" not in world.view.status
    world.cache = NodeCache("/c", 1000, 1, 1)
    world.settle()
    assert world.view.status["prefetch"] == {"replicas": 1, "nodes": ["a"]}
    world.jobs.clear()
    world.cache = NodeCache("/c", 1000)
    world.settle()
    assert "prefetch" not in world.view.status


def test_a_node_that_comes_or_gets_ready_fetches_it() -> None:
    world = World(machines("a", ready=False))
    world.settle()
    world.nodes = machines("a", "b")
    world.settle()
    assert world.running == {"a", "b"}
    world.nodes = machines("b")
    world.settle()
    assert world.running == {"b"}, "a Job for a node that is gone would wait for it"


@pytest.mark.parametrize(("said", "reason"), [(FULL, "Full"), (FAIL, "Failed"), ({}, "Failed")])
def test_a_failure_is_told_and_not_tried_again_at_once(said: dict[str, Any], reason: str) -> None:
    world = World(machines("a"))
    world.settle()
    world.end("a", **said)
    world.settle()
    assert [(node["name"], node["reason"]) for node in world.view.status["nodes"]] == [("a", reason)]
    assert (world.jobs, world.made, world.reasons) == ({}, ["a"], ["PrefetchFailed"])
    after = plan_checkpoint(world.look()).requeue_after
    assert after == (None if reason == "Full" else AGAIN_SECONDS)
    world.now += AGAIN_SECONDS
    world.settle()
    assert world.made == (["a"] if reason == "Full" else ["a", "a"])


def test_an_operator_that_starts_anew_takes_nobody_s_pods_for_more() -> None:
    world = World(machines("a"))
    world.settle()
    world.end("a", **FULL)
    world.settle()
    before = world.view.status
    world.now += AGAIN_SECONDS
    unsure = replace(world.look(), users=(), workers_known=False)
    assert not plan_checkpoint(unsure).create
    written = plan_checkpoint(unsure).status or before
    assert written["prefetch"] == before["prefetch"]
    world.settle()
    assert world.made == ["a"]


def test_when_a_pool_asks_for_more_pods_what_failed_is_tried_again() -> None:
    world = World(machines("a"))
    world.settle()
    world.end("a", **FULL)
    world.settle()
    for replicas, made in ((1, 1), (2, 2), (1, 2), (2, 3)):
        world.now += PAUSE_SECONDS
        world.users = (user(spec(replicas=replicas)),)
        world.settle()
        assert len(world.made) == made, replicas
        if world.jobs:
            world.end("a", **FULL)
            world.settle()
    world.now += PAUSE_SECONDS / 2
    world.users = (user(spec(replicas=9)),)
    assert not any(done.create for done in (world.step(), world.step())), "an autoscaler may do that often"
    assert plan_checkpoint(world.look()).requeue_after == PAUSE_SECONDS / 2


def test_what_others_evict_is_not_fetched_again_by_itself() -> None:
    """Two checkpoints that do not fit together would go round."""
    world = World(machines("a"))
    world.settle()
    world.end("a", **FILL)
    world.settle()
    world.told = (other(report(200, **EVICTED)),)
    world.now = NOW + 2 * AGAIN_SECONDS
    world.settle()
    assert (world.warm, world.made) == (set(), ["a"])


def test_a_worker_that_went_before_it_had_filled_leaves_it_to_a_job() -> None:
    world = World(machines("a"), told=(use(report(**MISS)),))
    world.settle()
    assert not world.made
    world.told = ()
    world.now += PAUSE_SECONDS
    world.settle()
    assert world.running == {"a"}


def test_another_checkpoint_sees_that_its_files_made_room() -> None:
    from plan.test_warm import HIT, after, nodes, seen

    world = World(machines("a"))
    world.settle()
    world.now = NOW + 60
    world.end("a", **FILL, evicted_bytes=5)
    world.settle()
    assert world.view.status["nodes"][0]["reason"] == "FetchedEvicting" and world.warm == {"a"}
    mine = seen(use(report(10, **HIT)))
    gone = after(mine, others=(world.view.status,), now=NOW + 60)
    assert nodes(gone) == {"a": (False, "Evicted")}


def test_what_a_job_says_of_another_time_is_taken_for_when_it_ended() -> None:
    world = World(machines("a"))
    world.settle()
    world.end("a", **FAIL)
    (job,) = world.jobs.values()
    said = state.encode_cache(NodeCacheReport(told_at=1.0, fill=CacheFill.FAILED)).decode()
    world.jobs = {job.name: replace(job, said=said)}
    world.settle()
    world.now += AGAIN_SECONDS - 1
    world.settle()
    assert world.made == ["a"], "a node whose clock is wrong is not tried without end"


def test_a_new_generation_is_fetched_anew_and_jobs_for_the_old_one_go() -> None:
    world = World(machines("a", "b"))
    world.settle()
    world.end("a", **FULL)
    world.settle()
    assert world.running == {"b"}
    world.told = (use(None, "nowhere", artifact=artifact("g2"), uptime=1.0),)
    world.settle()
    assert world.view.status["generation"] == "g2" and world.running == {"a", "b"}
    assert {job.generation for job in world.jobs.values()} == {"g2"}


def test_of_a_checkpoint_that_goes_the_jobs_go_first() -> None:
    world = World(machines("a"))
    world.settle()
    world.users, world.view = (), replace(world.view, deletion_time=NOW)
    done = plan_checkpoint(world.look())
    assert [ref.kind for ref in done.remove] == ["Job"]


def test_a_refused_job_is_told() -> None:
    world = World(machines("a"), refused=(Refused("create", "Job", "x", "QuotaExceeded", "no more pods"),))
    world.step()
    assert world.reasons == ["QuotaExceeded"]


ENDS = st.sampled_from([FILL, FULL, FAIL, {}, {"lookup": CacheLookup.HIT}, FILL | {"evicted_bytes": 1}])
MOVES = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 3)),
    st.tuples(st.just("end"), ENDS),
    st.tuples(st.just("wait"), st.sampled_from([1.0, PAUSE_SECONDS, AGAIN_SECONDS])),
    st.tuples(st.just("scale"), st.integers(0, 4)),
    st.tuples(st.just("nodes"), st.sets(st.sampled_from("abcde"), max_size=5)),
    st.tuples(st.just("cordon"), st.sampled_from("abcde")),
    st.tuples(st.just("worker"), st.sampled_from(["a", "b", ""])),
    st.tuples(st.just("vanish"), st.none()),
)


@given(moves=st.lists(MOVES, max_size=25), most=st.integers(1, 4), at_once=st.integers(1, 3))
def test_whatever_happens_there_are_never_too_many_and_it_comes_to_rest(
    moves: list[tuple[str, Any]], most: int, at_once: int
) -> None:
    """With an operator that dies between any two writes, Jobs that others delete, and nodes that come and go."""
    world = World(machines("a", "b", "c"), cache=NodeCache("/c", 1000, most, at_once))
    for what, value in moves:
        move(world, what, value)
        assert len(world.running) <= at_once
    budget = len(world.made) + 3 * len(world.nodes)
    world.settle()
    while world.running:
        world.end(min(world.running), **FILL)
        world.settle()
        assert len(world.running) <= at_once and len(world.made) <= budget
    busy = {u.node for u in world.told}
    able = {node.name for node in world.nodes if node.ready}
    idle = able - world.warm - busy
    assert len(able & world.warm) >= min(most, len(able - busy - _gave_up(world))) or not idle
    before = len(world.made)
    for _ in range(4):
        world.now += AGAIN_SECONDS
        world.settle()
        while world.running:
            world.end(min(world.running), **FULL)
            world.settle()
    assert len(world.made) <= before + len(world.nodes), "what is full is not tried for ever"


def _gave_up(world: World) -> Iterable[str]:
    return {node["name"] for node in world.view.status.get("nodes", []) if not node["cached"]}


def move(world: World, what: str, value: Any) -> None:
    if what == "step":
        world.step(crash=value)
    elif what == "end" and world.running:
        world.end(min(world.running), **value)
    elif what == "wait":
        world.now += value
    elif what == "scale":
        world.users = (user(spec(replicas=value)),)
    elif what == "nodes":
        world.nodes = machines(*sorted(value))
    elif what == "cordon":
        world.nodes = [replace(node, ready=node.name != value) for node in world.nodes]
    elif what == "worker":
        state_ = worker(node_cache=report(**MISS))
        world.told = (replace(use(None, value), worker=state_),) if value else ()
    elif what == "vanish" and world.jobs:
        world.jobs.pop(min(world.jobs))


def test_its_job_names_what_it_fetches() -> None:
    world = World(machines("a"))
    (job,) = plan_checkpoint(world.look()).create
    pod = job["spec"]["template"]["spec"]
    args = pod["containers"][0]["args"]
    assert (args[args.index("--identity") + 1], args[args.index("--host") + 1]) == (IDENTITY, HOST_TUPLE)
    assert len(job["metadata"]["name"]) <= 63
