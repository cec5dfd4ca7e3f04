"""A small world for plans to act in: pods that are scheduled, start, fail, drain; an API server that checks
preconditions and loses answers; an operator whose view of all this may be old.

It knows nothing of how a plan decides. After every plan it checks what must hold whatever happened before.
"""

from dataclasses import dataclass, field, replace

from plan.factory import applied, published
from plan.promises import check
from plan.surroundings import Surroundings
from vernal_contract.config import CheckpointPolicy
from vernal_operator.api.parse import parse_pool
from vernal_operator.build.meta import digest
from vernal_operator.plan import plan
from vernal_operator.plan.model import ChildKey, ChildView, Decisions, PodView, Pool, Snapshot
from vernal_operator.plan.revision import revision
from vernal_operator.plan.rollout import bounds


@dataclass
class World(Surroundings):
    """One pool and its surroundings. All randomness comes from `random`, so that a seed is a walk."""

    announced: set[str] = field(default_factory=set)
    history: list[dict[str, PodView]] = field(default_factory=list)
    deleted_by_us: set[str] = field(default_factory=set)
    plans: int = 0
    unheard: int = 0  # renewals that have failed
    most_idle: int = 0  # new pods that do not work, at the widest limits there were

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
