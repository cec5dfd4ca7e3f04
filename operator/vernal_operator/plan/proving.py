"""Which revision pods are brought to, which one missing pods are made of, and when a new one is given up.

    wanted    what the spec asks for
    current   what last proved itself: all pods were of it, and available (status.currentRevision)
    target    what pods are brought to: wanted; current once wanted was rejected
    fallback  current while target is another one: missing pods are made of it until target is proven

Four facts outlive a plan, in the status: `current`; how many pods of wanted were available
(`updatedAvailableReplicas`), and since when they have not become more (`provingSince`); that wanted was `rejected`.
Each is written before it is acted upon, so an operator that dies in between goes on from there:

* A revision of which no further pod becomes available for progressDeadlineSeconds, though one is wanted, is rejected:
  the first, its proof, or any other. The clock starts anew with each, and when proof is lost that there was. It does
  not run while the roll is paused, waits for a drain, or no pod is wanted.
* Wanted becomes current when as many pods of it are available as are wanted, and no other pod is left.
* A rejection ends when the spec asks for another revision, the old one included.
* Without a ControllerRevision to go back to (of a pool that has never been up, say) nothing is rejected.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.meta import Owner
from vernal_operator.build.pod import startup_seconds
from vernal_operator.build.revision import KIND, controller_revision, revision_data, revision_name
from vernal_operator.plan.census import Census
from vernal_operator.plan.model import Manifest, ObjectRef, RevisionView, Snapshot
from vernal_operator.plan.pods import serves
from vernal_operator.plan.revision import content, restored, revision
from vernal_operator.plan.texts import cut
from vernal_operator.plan.times import epoch, not_ahead, stamp


@dataclass(frozen=True, slots=True)
class Recipe:
    """What pods of a revision are made of. `told`: see `build.worker_pod`."""

    revision: str
    spec: VLLMWorkerPoolSpec
    told: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a pool stands between two revisions. `available`: pods of wanted, at the last plan."""

    wanted: str
    current: str | None
    target: Recipe
    fallback: Recipe | None
    rejected: Mapping[str, Any] | None
    since: float | None
    available: int = 0

    @property
    def trusted(self) -> bool:
        """Whether target needs no proof."""
        return self.target.revision == self.current

    @property
    def deadline(self) -> float | None:
        """When target is rejected if no further pod of it is available by then."""
        return None if self.since is None else self.since + deadline_seconds(self.target.spec)

    def status(self) -> Manifest:
        return {
            "updateRevision": self.wanted,
            "currentRevision": self.current,
            "provingSince": None if self.since is None else stamp(self.since),
            "rejected": None if self.rejected is None else dict(self.rejected),
        }


def deadline_seconds(spec: VLLMWorkerPoolSpec) -> int:
    """spec.rollout.progressDeadlineSeconds, or its default."""
    given = spec.rollout.progress_deadline_seconds
    return startup_seconds(spec) + spec.rollout.min_ready_seconds if given is None else given


def standing(snapshot: Snapshot, live: VLLMWorkerPoolSpec) -> Standing:
    """As the status and the ControllerRevisions say."""
    status, wanted = snapshot.pool.status, revision(live)
    kept = by_revision(snapshot)
    current = status.get("currentRevision") or _guess(snapshot, wanted, kept)
    there = kept.get(wanted)
    asked = Recipe(wanted, live, there.config if there is not None else None)
    before = _recipe(kept.get(current), live) if current is not None and current != wanted else None
    same = status.get("updateRevision") == wanted
    rejected = status.get("rejected")
    if before is not None and isinstance(rejected, Mapping) and rejected.get("revision") == wanted:
        return Standing(wanted, current, target=before, fallback=None, rejected=rejected, since=None)
    since = status.get("provingSince") if same and before is not None else None
    available = int(status.get("updatedAvailableReplicas", 0)) if same else 0
    return Standing(wanted, current, asked, before, None, epoch(since) if since else None, available)


def advanced(
    before: Standing, pods: Census, *, proven: bool, what_failed: str, now: float, looked_since: float | None = None
) -> Standing:
    """What is true of it after a look at the pods. Acted upon from the next plan on."""
    spec, target = before.target.spec, before.target.revision
    available = pods.available(pods.new)
    if proven and not pods.old and (before.fallback is None or available >= spec.replicas):
        return replace(before, current=target, fallback=None, since=None)
    if before.fallback is None or spec.rollout.paused or spec.replicas == 0:
        return replace(before, since=None)
    if 0 < available == len(pods.new) and pods.draining:
        return replace(before, since=None)  # what drains has the next one's place
    anew = available > before.available or (not available and before.available)
    since = None if anew else before.since
    if since is not None and looked_since is not None and looked_since <= now and available == len(pods.new):
        # No pod of it fails, and while no operator looked, none made the next one. (Where the clock was set back since,
        # nobody knows when that was.)
        since = max(since, float(int(looked_since)))
    whole = float(int(now))
    after = replace(before, since=whole if since is None else not_ahead(since, whole))
    if after.deadline is None or now < after.deadline:
        return after
    failed = "was not proven" if not proven else f"has {available} of {spec.replicas} pods available and got no more"
    message = (
        f"revision {target} {failed} within {deadline_seconds(spec)} s ({what_failed}); the pool is back at "
        f"{before.current}: correct the spec or revert it. To try the same again, change an annotation in "
        "spec.podTemplate.metadata"
    )
    return replace(after, rejected={"revision": target, "time": stamp(now), "message": cut(message)}, since=None)


# --- ControllerRevisions ------------------------------------------------------------------------------------


def by_revision(snapshot: Snapshot) -> dict[str, RevisionView]:
    name = snapshot.pool.name
    return {view.revision: view for view in snapshot.revisions if view.name == revision_name(name, view.revision)}


def history(
    snapshot: Snapshot, owner: Owner, now: Standing, live: VLLMWorkerPoolSpec
) -> tuple[tuple[Manifest, ...], tuple[ObjectRef, ...]]:
    """ControllerRevisions to write and to remove: that of the wanted revision has the highest number, and of those
    that nothing is made of the latest few stay.
    """
    kept = by_revision(snapshot)
    there, last = kept.get(now.wanted), max((view.number for view in snapshot.revisions), default=0)
    write: tuple[Manifest, ...] = ()
    if there is None:
        data = revision_data(owner, live, now.wanted, content(live))
        write = (controller_revision(owner, now.wanted, last + 1, data),)
    elif there.number < last:
        data = {"spec": there.spec, "config": there.config}
        write = (controller_revision(owner, now.wanted, last + 1, data),)
    used = {now.wanted, now.current, snapshot.pool.status.get("currentRevision")}
    used |= {pod.revision for pod in snapshot.pods}
    staying = (view for view in snapshot.revisions if view.revision not in used and not view.going)
    unused = sorted(staying, key=lambda view: view.number)
    surplus = unused[: max(0, len(unused) - live.rollout.revision_history_limit)]
    return write, tuple(ObjectRef(KIND, view.name, view.uid) for view in surplus)


def _recipe(view: RevisionView | None, live: VLLMWorkerPoolSpec) -> Recipe | None:
    spec = None if view is None else restored(view.spec, live)
    return None if view is None or spec is None else Recipe(view.revision, spec, view.config)


def _guess(snapshot: Snapshot, wanted: str, kept: Mapping[str, RevisionView]) -> str | None:
    """The current revision of a pool whose status was lost: of what most pods that serve are, if it is another than
    the wanted one.
    """
    serving = Counter(pod.revision for pod in snapshot.pods if serves(pod))
    found = min(serving, key=lambda name: (-serving[name], name), default=None)
    return found if found != wanted and found in kept else None
