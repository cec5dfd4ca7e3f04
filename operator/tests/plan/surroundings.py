"""What is around a plan: a pool's spec, its pods as they really are, and what happens to them."""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from vernal_contract.state import ArtifactRef, FreezeOutcome, FreezeReport, Phase, StartMode, WorkerState
from vernal_operator.api.parse import parse_pool
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.meta import digest
from vernal_operator.plan.model import CheckpointView, ChildKey, ChildView, PodView, RevisionView
from vernal_operator.plan.pods import LOST_AFTER_SECONDS
from vernal_operator.plan.revision import revision

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
class Surroundings:
    """Users, scheduler, kubelets, workers, and what the API server holds."""

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
    bad_revisions: set[str] = field(default_factory=set)
    single_revisions: set[str] = field(default_factory=set)  # one pod of each works: one node has the driver, say
    answers: dict[str, PodView] = field(default_factory=dict)  # what the operator heard, by pod uid
    published: dict[str, str] = field(default_factory=dict)  # generation by revision
    renew: str = ""
    counter: int = 0
    calm: bool = False  # no new faults
    wanted_since: float = START
    rollbacks: int = 0

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

    def describe(self) -> str:
        lines = [f"want {self.spec.replicas} of {self.revision}; status {self.status}"]
        lines += [str(pod.view) for pod in self.pods.values()]
        return "\n".join(lines)
