"""To zero and back: when the waker's slice stands, when a pool is parked, and that no order of events leaves a Service
without an endpoint or parks a pool that is in use.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plan.factory import NOW, applied, kept, pool, ready, snapshot, spec, starting, worker
from vernal_contract import names
from vernal_contract.state import Load
from vernal_operator.plan import plan
from vernal_operator.plan.model import ChildKey, ChildView, Decisions, PodView, Snapshot, Waker
from vernal_operator.plan.zero import FRESH_SECONDS, LOAD_SECONDS

WAKER = Waker(("10.0.0.1", "10.0.0.2"), 20001)
IDLE = 60
SCALED = {"minReplicas": 0, "maxReplicas": 4, "idleSeconds": IDLE}
SLICE = ChildKey("EndpointSlice", "p-waker")


def zeroable(**fields: Any) -> Any:
    return spec(autoscaling=SCALED | fields.pop("autoscaling", {}), **fields)


def with_load(slot: int = 0, *, idle: float = 0.0, in_flight: int = 0, age: float = 0.0, **fields: Any) -> PodView:
    told = worker(f"p-{slot}", in_flight=in_flight, load=Load(idle_seconds=idle))
    moments = {"answered_at": NOW - age, "polled_at": NOW - age}
    return ready(slot, worker=told, spec=zeroable(), **(moments | fields))


def look(wanted: Any, *pods: PodView, endpoints: bool = True, **fields: Any) -> Snapshot:
    led_to = frozenset(pod.name for pod in pods if pod.ready) if endpoints else frozenset()
    values = {"waker": WAKER, "in_endpoints": led_to, "revisions": (kept(wanted),)}
    return snapshot(wanted, *pods, **(values | fields))


def slice_of(done: Decisions) -> dict[str, Any] | None:
    return next((child for child in done.apply if child["kind"] == "EndpointSlice"), None)


def stands(found: dict[str, Any] | None) -> bool | None:
    if found is None:
        return None
    (ready_,) = {endpoint["conditions"]["ready"] for endpoint in found["endpoints"]}
    return bool(ready_)


def seen(before: Snapshot, done: Decisions) -> Snapshot:
    """After the slice was applied."""
    found = slice_of(done)
    assert found is not None
    view = ChildView("slice", found["metadata"]["annotations"][names.ANNOTATION_SPEC_HASH])
    return replace(before, children={**before.children, SLICE: view})


@pytest.mark.parametrize(
    ("why", "found", "expected"),
    [
        ("no worker is wanted", look(zeroable(replicas=0)), True),
        ("it starts", look(zeroable(), starting(0, spec=zeroable())), True),
        ("it is ready and no endpoint yet", look(zeroable(), with_load(), endpoints=False), True),
        ("it serves", look(zeroable(), with_load()), False),
        ("it serves, one more starts", look(zeroable(replicas=2), with_load(), starting(1, spec=zeroable())), False),
        ("its last worker goes", look(zeroable(), with_load(deletion_time=NOW + 60)), True),
        ("it is parked, its worker still ready", look(zeroable(replicas=0), with_load()), True),
        ("nobody has needed it", look(zeroable(), with_load(idle=IDLE)), True),
        ("it may not go to zero", look(zeroable(autoscaling={"minReplicas": 1, "idleSeconds": None})), None),
        ("it is not scaled", look(spec()), None),
        ("there is no waker", look(zeroable(replicas=0), waker=None), None),
        ("the waker has no pods", look(zeroable(replicas=0), waker=Waker((), 20001)), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_when_the_service_leads_to_the_waker(why: str, found: Snapshot, expected: bool | None) -> None:
    assert stands(slice_of(plan(found))) == expected, why


def test_the_slice_is_the_services_and_the_pools() -> None:
    found = slice_of(plan(look(zeroable(replicas=0))))
    assert found is not None
    meta = found["metadata"]
    assert meta["labels"][names.LABEL_SERVICE] == "p" and meta["ownerReferences"][0]["uid"] == "u"
    assert "endpointslice-controller" not in meta["labels"][names.LABEL_SLICE_BY], "Kubernetes would clean it up"
    assert [e["addresses"] for e in found["endpoints"]] == [["10.0.0.1"], ["10.0.0.2"]]
    assert found["ports"][0]["port"] == 20001


def test_a_pool_that_may_no_longer_go_to_zero_has_no_slice() -> None:
    before = look(zeroable(replicas=0))
    after = seen(before, plan(before))
    done = plan(replace(after, pool=pool(spec())))
    assert [(ref.kind, ref.name) for ref in done.remove] == [("EndpointSlice", "p-waker")]


def test_while_no_waker_is_ready_the_slice_keeps_its_port_and_leads_nowhere() -> None:
    """Those that leave answer what they hold, and those that come take its place."""
    before = seen(look(zeroable(replicas=0)), plan(look(zeroable(replicas=0))))
    done = plan(replace(before, waker=Waker((), 20001, ipv6=True)))
    found = slice_of(done)
    assert found is not None and not done.remove
    assert (found["endpoints"], found["ports"][0]["port"], found["addressType"]) == ([], 20001, "IPv6")
    assert "NoWaker" in {event.reason for event in done.events}
    idle = look(zeroable(), with_load(idle=IDLE))
    idle = replace(seen(idle, plan(idle)), waker=Waker((), 20001))
    assert plan(seen(idle, plan(idle))).replicas is None, "nobody would hold requests"


ONE = {"minReplicas": 1, "idleSeconds": None}


def at_zero(**fields: Any) -> Snapshot:
    before = look(zeroable(replicas=0), **fields)
    return seen(before, plan(before))


def test_a_pool_at_zero_that_may_not_be_there_any_more_is_woken() -> None:
    """An HPA leaves a pool alone that has no replicas, and nobody else would."""
    asleep = at_zero()
    asleep = replace(asleep, pool=pool(zeroable(replicas=0, autoscaling=ONE)), version=7)
    done = plan(asleep)
    assert (done.replicas, done.version, done.remove) == (1, 7, ())
    starts = replace(asleep, pool=pool(zeroable(autoscaling=ONE)), pods=(starting(0, spec=zeroable()),))
    done = plan(starts)
    assert done.replicas is None and not done.remove, "who waits is held until a worker serves"
    serves = replace(starts, pods=(with_load(),), in_endpoints=frozenset({with_load().name}))
    assert [ref.name for ref in plan(serves).remove] == ["p-waker"]


def test_a_pool_that_somebody_else_took_to_zero_is_left_there() -> None:
    done = plan(look(zeroable(replicas=0, autoscaling=ONE)))
    assert done.replicas is None and slice_of(done) is None


@pytest.mark.parametrize(("idle_seconds", "woken"), [(IDLE, 1), (None, None)])
def test_a_pool_at_zero_whose_waker_is_taken_away(idle_seconds: int | None, woken: int | None) -> None:
    external = {"autoscaler": "External", "maxReplicas": None, "idleSeconds": idle_seconds}
    asleep = replace(at_zero(), pool=pool(zeroable(replicas=0, autoscaling=external)), waker=None)
    done = plan(asleep)
    assert done.replicas == woken and "NoWaker" in {event.reason for event in done.events}
    assert bool(done.remove) == (woken is None), "while it is there, it says that the pool is to be woken"
    awake = replace(asleep, pool=pool(zeroable(autoscaling=external)))
    assert [ref.name for ref in plan(awake).remove] == ["p-waker"]


def test_a_clock_that_was_set_back_makes_no_old_answer_a_new_one() -> None:
    ahead = with_load(idle=IDLE, age=-3600.0)
    before = look(zeroable(), ahead)
    done = plan(before)
    assert done.poll == {ahead.name} and not stands(slice_of(done))


def test_the_slice_stands_before_the_pool_is_parked() -> None:
    before = look(zeroable(), with_load(idle=IDLE))
    first = plan(before)
    assert stands(slice_of(first)) and first.replicas is None
    second = plan(seen(before, first))
    assert second.replicas == 0 and slice_of(second) is None
    assert not second.delete, "what goes is decided from /scale, like every other change of it"


def test_who_is_about_to_go_serves_nobody() -> None:
    """One of two is ready and not in the endpoints yet; the other one, which is, goes."""
    kept_one, victim = with_load(0, deletion_cost=5), with_load(1)
    found = look(zeroable(replicas=1), kept_one, victim)
    done = plan(replace(found, in_endpoints=frozenset({victim.name})))
    assert [pod.name for pod in done.delete] == [victim.name]
    assert stands(slice_of(done)) is True


@pytest.mark.parametrize(
    ("why", "pods"),
    [
        ("a request is in flight", [with_load(idle=IDLE, in_flight=1)]),
        ("it was needed lately", [with_load(idle=IDLE - 0.1)]),
        ("one of two was", [with_load(idle=IDLE), with_load(1, idle=1.0)]),
        ("the answer is old", [with_load(idle=IDLE, age=FRESH_SECONDS + 0.1)]),
        ("it does not say", [ready(0, spec=zeroable())]),
        ("it does not answer", [replace(with_load(), worker=None, answered_at=None)]),
        ("none is ready", [starting(0, spec=zeroable())]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_keeps_a_pool(why: str, pods: list[PodView]) -> None:
    before = look(zeroable(replicas=len(pods)), *pods)
    done = plan(before)
    if slice_of(done) is not None:
        done = plan(seen(before, done))
    assert done.replicas is None, why


def test_another_autoscaler_goes_to_zero_itself_unless_it_says_otherwise() -> None:
    external = {"autoscaler": "External", "maxReplicas": None}
    never = look(zeroable(autoscaling=external | {"idleSeconds": None}), with_load(idle=10**6))
    assert stands(slice_of(plan(never))) is False
    by_us = look(zeroable(autoscaling=external), with_load(idle=IDLE))
    assert plan(seen(by_us, plan(by_us))).replicas == 0
    for done in (plan(never), plan(by_us)):
        assert "HorizontalPodAutoscaler" not in {child["kind"] for child in done.apply}


def test_without_a_waker_a_pool_stays_and_says_so_once() -> None:
    before = look(zeroable(), with_load(idle=IDLE), waker=None)
    done = plan(before)
    assert done.replicas is None
    (event,) = [event for event in done.events if event.reason == "NoWaker"]
    again = plan(replace(before, announced=frozenset({event.key})))
    assert "NoWaker" not in {event.reason for event in again.events}


@pytest.mark.parametrize(
    ("pod", "after"),
    [
        (with_load(in_flight=3), LOAD_SECONDS),
        (with_load(idle=1.0), LOAD_SECONDS),
        (with_load(idle=IDLE - 2.0), 2.0),
        (with_load(idle=IDLE + 5.0), 1.0),
        (ready(0, spec=zeroable()), LOAD_SECONDS),
    ],
)
def test_how_often_load_is_read(pod: PodView, after: float) -> None:
    found = look(zeroable(), pod)
    done = plan(found)
    assert not done.poll and done.requeue_after == after
    later = plan(replace(found, now=NOW + after))
    assert later.poll == {pod.name}


def test_nobody_is_asked_for_load_where_nothing_scales() -> None:
    assert not plan(snapshot(spec(), ready(0), now=NOW + 3600)).poll


class Zero(RuleBasedStateMachine):
    """A pool, its kubelet, the controller of EndpointSlices, the waker and clients, in any order.

    `routed` is what a client's connection finds: nodes see endpoints in the order in which they were written.
    """

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.spec = zeroable(replicas=0)
        self.pods: dict[str, PodView] = {}
        self.busy: dict[str, int] = {}
        self.quiet_since: dict[str, float] = {}
        self.in_endpoints: frozenset[str] = frozenset()
        self.children: dict[ChildKey, ChildView] = {}
        self.revisions: tuple[Any, ...] = ()
        self.checkpoints: tuple[Any, ...] = ()
        self.status: dict[str, Any] = {}
        self.slice_stands = False
        self.lost_a_worker = True  # nothing has been planned yet
        self.wakers = WAKER
        self.operate()

    # -- the operator ---

    def look(self) -> Snapshot:
        return Snapshot(
            now=self.now,
            pool=pool(self.spec, status=self.status),
            pods=tuple(self.pods.values()),
            children=self.children,
            revisions=self.revisions,
            in_endpoints=self.in_endpoints,
            waker=self.wakers,
        )

    @rule()
    def operate(self) -> None:
        done = plan(self.look())
        for manifest in done.apply:
            if manifest["kind"] == "ControllerRevision":
                self.revisions = (*self.revisions, applied(manifest))
                continue
            digest = manifest["metadata"]["annotations"][names.ANNOTATION_SPEC_HASH]
            self.children[ChildKey(manifest["kind"], manifest["metadata"]["name"])] = ChildView("u", digest)
            if manifest["kind"] == "EndpointSlice":
                self.slice_stands = bool(stands(manifest))
                self._check_routed()
        for ref in done.remove:
            if ref.kind == "EndpointSlice":
                del self.children[ChildKey(ref.kind, ref.name)]
                self.slice_stands = False
                self._check_routed()
        if done.replicas == 1:
            assert self.spec.replicas == 0 and self.spec.autoscaling.min_replicas
            self.spec = self.spec.model_copy(update={"replicas": 1})
        if done.replicas == 0:
            assert self.slice_stands, "parked before anybody was told where to go"
            # A request that came after the last answer ends in the drain; one that was told of is no idleness.
            for pod in self.pods.values():
                if pod.ready and pod.deletion_time is None:
                    assert pod.worker is not None and pod.worker.in_flight == 0
            self.spec = self.spec.model_copy(update={"replicas": 0})
        for victim in done.delete:
            found = self.pods[victim.name]
            self.pods[victim.name] = replace(found, deletion_time=self.now + 60)
        for made in done.create:
            name = made["metadata"]["name"]
            slot = int(made["metadata"]["labels"][names.LABEL_SLOT])
            self.pods[name] = replace(
                starting(slot, spec=self.spec), name=name, uid=f"{name}@{self.now}", created=self.now, running=False
            )
        for name in done.poll:
            self.ask(name)
        if done.status is not None:
            self.status = done.status
        # Nobody stands in for a worker that is lost where the pool may not be at zero and has no slice any more.
        alone = bool(self.spec.autoscaling.min_replicas) and not self.slice_stands and not self._serving()
        self.lost_a_worker = self.lost_a_worker and alone
        self._check_routed()

    def ask(self, name: str) -> None:
        pod = self.pods.get(name)
        if pod is None or not pod.running:
            return
        busy = self.busy.get(name, 0)
        idle = 0.0 if busy else self.now - self.quiet_since.get(name, self.now)
        told = worker(name, in_flight=busy, load=Load(idle_seconds=idle), ready=pod.ready)
        self.pods[name] = replace(pod, worker=told, answered_at=self.now, polled_at=self.now)

    # -- everybody else ---

    def some(self, data: Any, among: Iterator[str]) -> str | None:
        names_ = sorted(among)
        return data.draw(st.sampled_from(names_)) if names_ else None

    @rule(data=st.data())
    def becomes_ready(self, data: Any) -> None:
        name = self.some(data, (n for n, p in self.pods.items() if not p.ready and p.deletion_time is None))
        if name is not None:
            pod = self.pods[name]
            self.pods[name] = replace(pod, ready=True, running=True, ready_since=self.now, polled_at=None)
            self.quiet_since[name] = self.now

    @rule()
    def endpoints_follow(self) -> None:
        """Kubernetes' controller, some time after a pod has changed."""
        self.in_endpoints = frozenset(n for n, p in self.pods.items() if p.ready and p.deletion_time is None)
        self._check_routed()

    @rule(data=st.data())
    def crashes(self, data: Any) -> None:
        name = self.some(data, (n for n, p in self.pods.items() if p.ready))
        if name is not None:
            self.pods[name] = replace(self.pods[name], ready=False, worker=None, answered_at=None)
            self.busy.pop(name, None)
            self.lost_a_worker = True

    @rule(data=st.data())
    def ends(self, data: Any) -> None:
        """The last of a pod that was told to go."""
        name = self.some(data, (n for n, p in self.pods.items() if p.deletion_time is not None))
        if name is not None:
            del self.pods[name]
            self.in_endpoints -= {name}

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 30.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def asked(self, data: Any) -> None:
        name = self.some(data, (n for n, p in self.pods.items() if p.ready))
        if name is not None:
            self.busy[name] = self.busy.get(name, 0) + 1

    @rule(data=st.data())
    def answered(self, data: Any) -> None:
        name = self.some(data, (n for n, count in self.busy.items() if count))
        if name is not None:
            self.busy[name] -= 1
            self.quiet_since[name] = self.now

    @rule(least=st.sampled_from([0, 0, 1]))
    def may_go_to_zero_or_not(self, least: int) -> None:
        wish = SCALED | {"minReplicas": least, "idleSeconds": None if least else IDLE}
        self.spec = self.spec.model_copy(update={"autoscaling": spec(autoscaling=wish).autoscaling})

    @precondition(lambda self: self.spec.replicas == 0)
    @rule()
    def wakes(self) -> None:
        self.spec = self.spec.model_copy(update={"replicas": 1})

    @precondition(lambda self: self.spec.replicas > 0)
    @rule(replicas=st.integers(1, 3))
    def scales(self, replicas: int) -> None:
        self.spec = self.spec.model_copy(update={"replicas": replicas})

    # -- what must hold ---

    def _serving(self) -> bool:
        return any(p.ready and p.deletion_time is None and n in self.in_endpoints for n, p in self.pods.items())

    def _check_routed(self) -> None:
        assert self.slice_stands or self._serving() or self.lost_a_worker, "the Service leads nowhere"

    @invariant()
    def nobody_is_sent_to_a_worker_that_goes(self) -> None:
        if getattr(self, "spec", None) is not None and self.spec.replicas == 0 and not self.lost_a_worker:
            done = plan(self.look())
            assert not done.remove, "nobody is led anywhere"
            assert slice_of(done) is None or stands(slice_of(done)), "no worker is wanted, and the waker is let go"


TestZero = Zero.TestCase
TestZero.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
