"""A small world for plans to act in: pods that are scheduled, start, fail, drain; an API server that checks
preconditions and loses answers; an operator whose view of all this may be old.

It knows nothing of how a plan decides. After every plan it checks what must hold whatever happened before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from plan.factory import applied, published
from vernal_contract.config import CheckpointPolicy
from vernal_contract.state import ArtifactRef, FreezeOutcome, FreezeReport, Phase, StartMode, WorkerState
from vernal_operator.api.parse import parse_pool
from vernal_operator.api.pool import Startup, VLLMWorkerPoolSpec
from vernal_operator.build.meta import digest
from vernal_operator.plan import plan
from vernal_operator.plan.model import (
    CheckpointView,
    ChildKey,
    ChildView,
    Decisions,
    PodView,
    Pool,
    RevisionView,
    Snapshot,
)
from vernal_operator.plan.pods import LOST_AFTER_SECONDS
from vernal_operator.plan.pool import AT_ONCE
from vernal_operator.plan.proving import deadline_seconds
from vernal_operator.plan.revision import revision
from vernal_operator.plan.rollout import bounds

START = 1_800_000_000.0
HOST = "b" * 64
ANNOTATION_RENEW, ENV_RENEW = "vernal.dev/renew-checkpoint", "VERNAL_RENEW"
LABEL_REVISION, LABEL_SLOT = "vernal.dev/revision", "vernal.dev/slot"


@dataclass
class Pod:
    """A pod as it really is. `broken` ones never become ready, `silent` ones never answer, `refused` ones fail as soon
    as a kubelet sees them.
    """

    view: PodView
    broken: bool
    silent: bool
    refused: bool = False
    worker: WorkerState | None = None
    gone_at: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    avoids: frozenset[str] = frozenset()  # generations that it was told not to thaw


@dataclass
class World:
    """One pool and its surroundings. All randomness comes from `random`, so that a seed is a walk."""

    random: Random
    capacity: int = 99
    now: float = START
    raw: dict[str, Any] = field(default_factory=dict)
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    children: dict[ChildKey, ChildView] = field(default_factory=dict)
    revisions: dict[str, RevisionView] = field(default_factory=dict)
    checkpoints: dict[str, CheckpointView] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    bad_revisions: set[str] = field(default_factory=set)
    single_revisions: set[str] = field(default_factory=set)  # one pod of each works: one node has the driver, say
    answers: dict[str, PodView] = field(default_factory=dict)  # what the operator heard, by pod uid
    history: list[dict[str, PodView]] = field(default_factory=list)
    published: dict[str, str] = field(default_factory=dict)  # generation by revision
    renew: str = ""
    deleted_by_us: set[str] = field(default_factory=set)
    counter: int = 0
    plans: int = 0
    calm: bool = False  # no new faults
    wanted_since: float = START
    rollbacks: int = 0
    unheard: int = 0  # renewals that have failed
    most_idle: int = 0  # new pods that do not work, at the widest limits there were

    def __post_init__(self) -> None:
        self.raw = {
            "image": "worker:1",
            "replicas": 1,
            "model": {"name": "m"},
            "checkpoint": {"storage": {"claimName": "store"}},
        } | self.raw
        self._parse()

    def _parse(self) -> None:
        spec, error = parse_pool({"spec": self.raw})
        assert spec is not None, error
        self.spec: VLLMWorkerPoolSpec = spec
        self.revision = revision(spec)

    # --- what happens -----------------------------------------------------------------------------------------

    def edit(self, **fields: Any) -> None:
        """The user changes the spec."""
        before = self.revision
        self.raw |= fields
        self.generation += 1
        self._parse()
        if self.revision != before:
            self.wanted_since = self.now

    def ask_renewal(self) -> None:
        """The user wants a new checkpoint."""
        self.counter += 1
        self.renew = f"request {self.counter}"

    def tick(self, seconds: float) -> None:
        """Time goes by; kubelet and scheduler do what is due."""
        self.now += seconds
        for name, pod in list(self.pods.items()):
            if pod.gone_at is not None and self.now >= pod.gone_at:
                del self.pods[name]
        for pod in list(self.pods.values()):
            self._advance(pod)

    def _advance(self, pod: Pod) -> None:
        view = pod.view
        if view.deletion_time is not None or view.phase == "Failed" or self.random.random() < 0.3:
            return
        if not view.scheduled:
            used = sum(p.view.scheduled and p.view.phase != "Failed" for p in self.pods.values())
            if used < self.capacity:
                self._change(pod, scheduled=True, unschedulable="", node="n")
            else:
                self._change(pod, unschedulable="no node has a free GPU")
        elif pod.refused:
            self._change(pod, phase="Failed")
        elif pod.broken and int(view.revision, 16) % 2:
            self._change(pod, waiting_reason="ImagePullBackOff")
        elif not view.running:
            self._change(pod, running=True, phase="Running", waiting_reason="")
            pod.worker = WorkerState(
                pod=view.name, namespace="ns", pool="p", revision=view.revision, phase=Phase.STARTING
            )
        elif not view.ready and not pod.broken:
            self._start(pod)

    def _start(self, pod: Pod) -> None:
        view, known = pod.view, self.published.get(pod.view.revision)
        thaws = known is not None and known not in pod.avoids
        identity = digest(view.revision) * 4
        generation = known if known is not None and thaws else f"g{len(pod.avoids)}-{view.name}-{self.counter}"
        self.published[view.revision] = generation
        for name, checkpoint in self.checkpoints.items():
            if checkpoint.spec.identity == identity:
                self.checkpoints[name] = replace(checkpoint, status={**checkpoint.status, "generation": generation})
        assert pod.worker is not None
        pod.worker = WorkerState(
            pod=view.name,
            namespace="ns",
            pool="p",
            revision=view.revision,
            phase=Phase.READY,
            ready=True,
            start_mode=StartMode.RESTORED if thaws else StartMode.COLD,
            start_reason="Restored" if thaws else "NoArtifact",
            identity=identity,
            host_tuple=HOST,
            artifact=ArtifactRef(identity=identity, generation=generation, host_tuple=HOST, bytes=1, files=1),
            freeze=None if thaws else FreezeReport(outcome=FreezeOutcome.PUBLISHED),
            in_flight=self.random.randrange(4),
        )
        self._change(pod, ready=True, ready_since=self.now)

    def disturb(self, sort: str, but: str = "") -> None:
        """Something happens to a pod that nobody asked for: any but those of the revision `but`."""
        alive = [p for p in self.pods.values() if p.view.deletion_time is None and p.view.phase != "Failed"]
        alive = [p for p in alive if p.view.revision != but]
        if not alive:
            return
        pod = self.random.choice(alive)
        if sort == "evict":
            self._change(pod, phase="Failed", ready=False, running=False, ready_since=None)
        elif sort == "delete":
            self._terminate(pod)
        elif sort == "crash" and pod.view.running:
            pod.worker = None
            self.answers.pop(pod.view.uid, None)
            self._change(
                pod, ready=False, running=False, ready_since=None, restarts=pod.view.restarts + 1, last_exit_code=1
            )
        elif sort == "blip" and pod.view.ready:
            self._change(pod, ready=False, ready_since=None)
        elif sort == "cost":
            self._change(pod, deletion_cost=self.random.randrange(-2, 3))

    def _change(self, pod: Pod, **fields: Any) -> None:
        self.counter += 1
        pod.view = replace(pod.view, resource_version=str(self.counter), **fields)

    def _terminate(self, pod: Pod) -> None:
        grace = self.spec.termination_grace_period_seconds
        self._change(pod, deletion_time=self.now + grace, ready=False, ready_since=None)
        slow = self.random.random()
        pod.gone_at = self.now + (0 if not pod.view.scheduled else grace * slow)
        if slow > 0.95 and pod.view.scheduled:
            pod.gone_at = self.now + grace + LOST_AFTER_SECONDS * 3  # the node is gone

    # --- what the operator sees -------------------------------------------------------------------------------

    def snapshot(self, age: int = 0) -> Snapshot:
        """What the operator knows; `age` says by how many plans its list of pods lags behind."""
        current = {pod.view.uid: pod.view for pod in self.pods.values()}
        seen = dict(current)
        if age and len(self.history) >= age:
            old = self.history[-age]
            seen = old | {uid: view for uid, view in current.items() if uid not in old}  # own creates are known
        pods = tuple(self._with_own_writes(view) for view in seen.values())
        self.history.append(current)
        del self.history[:-4]
        return Snapshot(
            now=self.now,
            pool=Pool(
                name="p",
                namespace="ns",
                uid="u",
                generation=self.generation,
                spec=self.spec,
                status=self.status,
                renew=self.renew,
            ),
            pods=pods,
            checkpoints=tuple(self.checkpoints.values()),
            children=dict(self.children),
            revisions=tuple(self.revisions.values()),
            announced=frozenset(self.announced),
        )

    def _with_own_writes(self, view: PodView) -> PodView:
        if view.uid in self.deleted_by_us and view.deletion_time is None:
            view = replace(view, deletion_time=self.now + 60)
        heard = self.answers.get(view.uid)
        if heard is None or heard.restarts != view.restarts:
            return view
        return replace(view, worker=heard.worker, answered_at=heard.answered_at, polled_at=heard.polled_at)

    # --- what the operator does -------------------------------------------------------------------------------

    def reconcile(self, *, age: int = 0, crash: bool = False, twice: bool = False) -> Decisions:
        """One plan, checked and carried out.

        Args:
            age: by how many plans the view lags behind.
            crash: the operator dies somewhere in the middle of carrying it out.
            twice: it is carried out again, because no answer came.
        """
        snapshot = self.snapshot(age)
        decisions = plan(snapshot)
        self.plans += 1
        assert self.plans % 8 or plan(snapshot) == decisions, "the same snapshot gave two plans"
        check(self, snapshot, decisions)
        for _ in range(1 + twice):
            self._carry_out(self._part(decisions) if crash else decisions)
        slots = [pod.view.slot for pod in self.pods.values()]
        assert len(set(slots)) == len(slots), f"a slot twice: {self.describe()}"
        return decisions

    def _part(self, decisions: Decisions) -> Decisions:
        """What was done before the crash. Each field is carried out in order, so a prefix of each may be."""
        keep = self.random.randrange
        return replace(
            decisions,
            create=decisions.create[: keep(len(decisions.create) + 1)],
            delete=decisions.delete[: keep(len(decisions.delete) + 1)],
            status=decisions.status if keep(2) else None,
            poll=frozenset(),
            events=(),
        )

    def _carry_out(self, decisions: Decisions) -> None:
        for victim in decisions.delete:
            pod = self.pods.get(victim.name)
            if pod is not None and (pod.view.uid, pod.view.resource_version) == (
                victim.uid,
                victim.resource_version,
            ):
                if pod.view.deletion_time is None:
                    self._terminate(pod)
                    if pod.view.phase == "Failed":
                        pod.gone_at = self.now
                self.deleted_by_us.add(victim.uid)
        for manifest in decisions.create:
            self._create(manifest)
        for child in decisions.apply:
            if child["kind"] == "ControllerRevision":
                view = applied(child)
                there = self.revisions.get(view.name)
                assert there is None or (there.spec, there.config) == (view.spec, view.config), "its data is immutable"
                self.revisions[view.name] = view
                continue
            key = ChildKey(child["kind"], child["metadata"]["name"])
            self.children[key] = ChildView("c", child["metadata"]["annotations"]["vernal.dev/spec-hash"])
        for gone in decisions.remove:
            self.revisions.pop(gone.name, None)
            self.children.pop(ChildKey(gone.kind, gone.name), None)
        for manifest in decisions.create_checkpoints:
            name = manifest["metadata"]["name"]
            generation = next(
                (g for r, g in self.published.items() if digest(r) * 4 == manifest["spec"]["identity"]), "g"
            )
            self.checkpoints.setdefault(name, published(manifest, generation=generation))
        if decisions.status is not None:
            self.status = decisions.status
        self.announced |= {event.key for event in decisions.events}
        for pod in self.pods.values():
            if pod.view.name in decisions.poll:
                worker = None if pod.silent else pod.worker
                self.answers[pod.view.uid] = replace(
                    pod.view, worker=worker, polled_at=self.now, answered_at=self.now if worker else None
                )

    def _create(self, manifest: dict[str, Any]) -> None:
        name, labels = manifest["metadata"]["name"], manifest["metadata"]["labels"]
        if name in self.pods:
            return  # 409 AlreadyExists
        self.counter += 1
        view = PodView(
            name=name,
            uid=f"uid{self.counter}",
            resource_version=str(self.counter),
            revision=labels[LABEL_REVISION],
            slot=int(labels[LABEL_SLOT]),
            created=self.now,
            renew=manifest["metadata"].get("annotations", {}).get(ANNOTATION_RENEW, ""),
        )
        (worker,) = manifest["spec"]["containers"]
        told = {entry["name"]: entry.get("value", "") for entry in worker["env"]}
        self.pods[name] = Pod(
            view,
            labels=labels,
            avoids=frozenset(told.get(ENV_RENEW, "").split(",")) - {""},
            broken=view.revision in self.bad_revisions or self._place_is_taken(view.revision),
            silent=not self.calm and self.random.random() < 0.1,
            refused=not self.calm and self.random.random() < 0.05,
        )

    def _place_is_taken(self, revision: str) -> bool:
        """Whether it has a pod that works, and no second one does."""
        there = [pod for pod in self.pods.values() if pod.view.revision == revision]
        return revision in self.single_revisions and any(not pod.broken for pod in there)

    def check_capacity(self, seconds: float = 400.0) -> None:
        """Given time to start what was made, but not enough for a roll to be given up, the floor is kept."""
        limits, until = bounds(self.spec.replicas, self.spec.rollout), self.now + seconds
        while self.now < until:
            if not self.reconcile().poll:
                self.tick(20.0)
        self.reconcile()
        assert "rejected" not in self.status, "the walk took too long"
        alive = [p for p in self.pods.values() if p.view.deletion_time is None and p.view.phase != "Failed"]
        assert sum(p.view.ready for p in alive) >= limits.floor, f"capacity decays: {self.describe()}"
        self.most_idle = max(self.most_idle, limits.surge + limits.unavailable)
        idle = sum(p.broken for p in alive)
        assert idle <= self.most_idle, f"more and more pods that do not work: {self.describe()}"

    # --- how it ends ------------------------------------------------------------------------------------------

    def settle(self, rounds: int = 600) -> None:
        """No more faults: the pool must become what its spec says, and then nothing more may be decided.

        If the wanted revision does not work and there is another one to go back to, it must go back by itself; a fixed
        spec, or the old one, must then end that.
        """
        self.calm = True
        self.capacity = 99
        before = self.status.get("currentRevision")
        rolling = before not in (None, self.revision)
        bad = rolling and self.revision in self.bad_revisions and self.spec.replicas > 0
        single = rolling and self.revision in self.single_revisions and self.spec.replicas > 1
        sick = bad or single
        self.bad_revisions = {self.revision} if bad else set()
        self.single_revisions = {self.revision} if single else set()
        working = [pod for pod in self.pods.values() if pod.view.revision == self.revision and pod.view.ready]
        for pod in self.pods.values():
            pod.silent = pod.refused = False
            pod.broken = pod.view.revision in self.bad_revisions
            pod.broken |= single and pod.view.revision == self.revision and pod not in working[:1]
            if pod.broken and pod.view.ready:
                self._change(pod, ready=False, ready_since=None)
        self.edit(rollout={key: value for key, value in self.raw.get("rollout", {}).items() if key != "paused"})
        self._until_silent(rounds)
        rejected = self.status.get("rejected", {}).get("revision")
        assert rejected == self.revision or not sick, f"not rolled back: {self.describe()}"
        self._check_end(self.status["currentRevision"] if rejected else self.revision)
        conditions = {c["type"]: (c["status"], c["reason"]) for c in self.status["conditions"]}
        told = ("False", "ProgressDeadlineExceeded"), ("True", "ProgressDeadlineExceeded")
        assert not rejected or (conditions["Progressing"], conditions["Degraded"]) == told
        if not rejected:
            return
        self.bad_revisions.clear()
        self.single_revisions.clear()
        if self.random.random() < 0.5:
            self.edit(image="worker:fixed")
        else:
            self.edit(image=next(i for i in map("worker:{}".format, range(4)) if self._revision_of(i) == before))
        self._until_silent(rounds)
        assert "rejected" not in self.status
        self._check_end(self.revision)

    def _revision_of(self, image: str) -> str:
        spec, error = parse_pool({"spec": self.raw | {"image": image}})
        assert spec is not None, error
        return revision(spec)

    def _until_silent(self, rounds: int) -> None:
        for _ in range(rounds):
            decisions = self.reconcile()
            if not decisions and decisions.requeue_after is None and not self._busy():
                return
            if not decisions.poll:
                self.tick(100.0 if self.bad_revisions or self.single_revisions else 20.0)  # on to the deadline
        raise AssertionError(f"not settled after {rounds} rounds: {self.describe()}")

    def _check_end(self, wanted: str) -> None:
        views = [pod.view for pod in self.pods.values()]
        assert len(views) == self.spec.replicas, self.describe()
        assert all(view.ready and view.revision == wanted for view in views), self.describe()
        assert {c["type"]: c["status"] for c in self.status["conditions"]}["Ready"] == "True"
        assert not views or self.status["currentRevision"] == wanted
        assert not views or "provingSince" not in self.status
        if views and self.renew and self.spec.checkpoint.policy != CheckpointPolicy.DISABLED:
            renewal, room = self.status["renewal"], bounds(len(views), self.spec.rollout).surge > 0
            assert renewal["request"] == self.renew
            assert not room or renewal["outcome"] != "Pending", self.describe()
            if renewal["outcome"] == "Renewed":
                assert self.published[wanted] not in renewal["replaces"], "it goes on thawing the old one"
            else:  # nobody hears silent workers
                self.unheard += room
        assert len(self.revisions) <= self.spec.rollout.revision_history_limit + 2

    def _busy(self) -> bool:
        return any(not p.view.ready or p.view.deletion_time is not None for p in self.pods.values())

    def describe(self) -> str:
        lines = [f"want {self.spec.replicas} of {self.revision}; status {self.status}"]
        lines += [str(pod.view) for pod in self.pods.values()]
        return "\n".join(lines)


# --- what must hold -----------------------------------------------------------------------------------------


def check(world: World, snapshot: Snapshot, decisions: Decisions) -> None:
    """The promises of `rollout`, `proving`, `scale` and `startup`, from what the plan saw."""
    spec, status = world.spec, world.status
    limits = bounds(spec.replicas, spec.rollout)
    current = status.get("currentRevision")
    rolled_back = status.get("rejected", {}).get("revision") == world.revision
    target = current if rolled_back else world.revision
    alive = [p for p in snapshot.pods if p.deletion_time is None and p.phase not in ("Failed", "Succeeded")]
    new = [p for p in alive if p.revision == target]
    old = [p for p in alive if p.revision != target]
    draining = [
        p
        for p in snapshot.pods
        if p.deletion_time is not None
        and p.revision != target
        and p.scheduled
        and p.phase not in ("Failed", "Succeeded")
        and snapshot.now < p.deletion_time + LOST_AFTER_SECONDS
    ]
    made = [m["metadata"]["labels"][LABEL_REVISION] for m in decisions.create]
    total = len(alive) + len(draining) + len(made)
    assert not made or total <= limits.ceiling, "above replicas + maxSurge"
    renewal = status.get("renewal", {})
    renewing = renewal.get("outcome") == "Pending" and renewal.get("request") == world.renew
    assert len(new) + made.count(str(target)) <= max(limits.replicas + renewing, len(new)), (
        "more new pods than replicas"
    )
    assert all(ENV_RENEW in str(m) for m in decisions.create) or not renewing, "a pod that does not renew"
    assert len(made) <= AT_ONCE and len(decisions.delete) <= AT_ONCE
    _check_really_there(world, decisions, limits.ceiling)

    by_uid = {p.uid: p for p in snapshot.pods}
    victims = [by_uid[d.uid] for d in decisions.delete]
    assert len({v.uid for v in victims}) == len(victims)
    assert all(v.deletion_time is None for v in victims), "deleted twice"
    gone = {v.uid for v in victims}
    stalled = {d.uid for d in decisions.delete if d.reason == "Stalled"}
    assert not any(v.ready for v in victims if v.uid in stalled)

    def available(pod: PodView) -> bool:
        return pod.ready and snapshot.now >= (pod.ready_since or 0.0) + spec.rollout.min_ready_seconds

    for serves in (lambda pod: pod.ready, available):
        before = sum(serves(p) for p in alive)
        after = sum(serves(p) for p in alive if p.uid not in gone)
        assert after == before or after >= limits.floor, "below replicas - maxUnavailable"

    proven = target == current or any(available(p) for p in new)
    known = world.revisions.get(f"p-{current}") if current is not None else None
    if not proven and (old or known is not None):
        assert len(new) + made.count(str(target)) <= max(1, len(new)), "a second pod of a revision not proven"
    if not proven and known is not None:
        assert set(made) <= {target, current}
        held_back = status.get("failedPods") or any(p.phase == "Failed" for p in snapshot.pods)
        if not held_back and len(made) < AT_ONCE and not _was_rejected(world, decisions):
            assert total >= min(limits.replicas, limits.ceiling), "missing pods are made of the old revision"
        assert not (spec.rollout.paused and target in made), "a new pod while paused"
    if target != current and known is not None and target in made:
        trusted = sum(available(p) for p in new) + sum(p.uid not in gone for p in old) + made.count(str(current))
        held_back = status.get("failedPods") or any(p.phase == "Failed" for p in snapshot.pods)
        assert trusted >= limits.floor or held_back, "a pod that may not work in the place of one that does"
    _check_rejection(world, snapshot, decisions, sum(available(p) for p in new))
    assert not (rolled_back and world.revision in made), "a pod of a rejected revision"
    written = {m["metadata"]["name"] for m in decisions.apply} | set(world.revisions)
    assert all(f"p-{name}" in written for name in made), "a pod of a revision that nobody keeps"
    if spec.checkpoint.startup == Startup.WAIT_FOR_CHECKPOINT and not world.checkpoints and not world.status:
        assert len(new) + len(decisions.create) <= 1

    debris = {p.uid for p in old if p.revision != current and not p.ready}
    for group in (new, [p for p in old if p.uid not in debris]):
        went = [p for p in group if p.uid in gone - stalled]
        stayed = [p for p in group if p.uid not in gone]
        if renewing and group is new and len(went) != len(alive):  # who makes the new checkpoint may stay
            stayed = [p for p in stayed if p.renew != world.renew]
        _check_order(snapshot.now, went, stayed, available)
    _check_status(world, decisions, alive)


def _was_rejected(world: World, decisions: Decisions) -> bool:
    return decisions.status is not None and "rejected" in decisions.status and "rejected" not in world.status


def _check_rejection(world: World, snapshot: Snapshot, decisions: Decisions, working: int) -> None:
    if not _was_rejected(world, decisions):
        return
    world.rollbacks += 1
    assert working < world.spec.replicas, "a revision was rejected that works"
    assert working <= world.status.get("updatedAvailableReplicas", 0), "a roll was ended that goes on"
    assert snapshot.now >= world.wanted_since + deadline_seconds(world.spec) - 1, "rejected too early"
    assert not world.spec.rollout.paused and world.spec.replicas
    assert not decisions.create and not decisions.delete, "acted upon before it was written down"
    assert f"p-{world.status['currentRevision']}" in world.revisions, "nothing to go back to"


def _check_really_there(world: World, decisions: Decisions, ceiling: int) -> None:
    """What the plan could not see does not lead above the ceiling either."""
    names = {m["metadata"]["name"] for m in decisions.create}
    there = {
        name
        for name, pod in world.pods.items()
        if pod.view.deletion_time is None and pod.view.phase not in ("Failed", "Succeeded")
    }
    assert not names or len(there | names) <= ceiling, f"really above replicas + maxSurge: {world.describe()}"


def _check_order(now: float, gone: list[PodView], kept: list[PodView], available: Callable[[PodView], bool]) -> None:
    def known(p: PodView) -> tuple[int, int]:
        rank = 0 if not p.scheduled else 1 if p.phase == "Pending" else 2 if not p.ready else 3 + available(p)
        return rank, p.deletion_cost

    for victim in gone:
        for other in kept:
            assert known(victim) <= known(other), "a better victim was kept"
            if known(victim) == known(other) and victim.ready and victim.worker and other.worker:
                fresh = all(p.answered_at is not None and now - p.answered_at <= 10 for p in (victim, other))
                assert not fresh or victim.worker.in_flight <= other.worker.in_flight, "a busier pod went"


def _check_status(world: World, decisions: Decisions, alive: list[PodView]) -> None:
    status = decisions.status
    if status is None:
        return
    assert status != world.status
    assert status["replicas"] == len(alive) and status["readyReplicas"] == sum(p.ready for p in alive)
    wanted = dict(pair.split("=") for pair in status["selector"].split(","))
    selected = [p for p in alive if p.name in world.pods and wanted.items() <= world.pods[p.name].labels.items()]
    missed = [p for p in alive if p.name in world.pods and p not in selected]
    assert not missed and len(selected) <= status["replicas"], "the selector is not that of the pods that are counted"
    assert [c["type"] for c in status["conditions"]] == ["Ready", "CheckpointReady", "Progressing", "Degraded"]
    before = {c["type"]: c for c in world.status.get("conditions", [])}
    for condition in status["conditions"]:
        last = before.get(condition["type"])
        if last is not None:
            same = last["status"] == condition["status"]
            assert (last["lastTransitionTime"] == condition["lastTransitionTime"]) or not same
