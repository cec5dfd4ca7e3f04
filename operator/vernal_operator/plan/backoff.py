"""When a failed pod is replaced: the first at once, one that failed in its stead later, and so on.

A pod fails for good (phase Failed) when it is evicted, when its node shuts down, or when a kubelet refuses it; the last
can happen again at once, for ever. Crashes of containers are the kubelet's to slow down, not ours. Counted are failures
in a row: of a pod that was made after the one before had failed. Pods that fail together count once.

When a pod was made is the API server's word, when it was found the operator's, and their clocks differ: so it is kept
which pod was the youngest then (`lastCreated`), and a later one is one that was made after that.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from vernal_operator.plan.model import Manifest, PodView
from vernal_operator.plan.times import epoch, not_ahead, stamp

FIRST_SECONDS, LONGEST_SECONDS = 10.0, 300.0
FORGET_SECONDS = 600.0
"""A failure counts no longer than this."""


def failures(
    old: Iterable[Mapping[str, Any]],
    pods: Iterable[PodView],
    over: Iterable[PodView],
    revisions: Iterable[str | None],
    now: float,
) -> list[Manifest]:
    """status.failedPods: what it was, with those of all `pods` that are over now. Only `revisions` are kept."""
    kept = {
        entry["revision"]: {**entry, "lastTime": stamp(last)}
        for entry in old
        if now < (last := not_ahead(epoch(entry["lastTime"]), now)) + FORGET_SECONDS
    }
    wanted, youngest = set(revisions), _youngest(pods)
    for name, made in _youngest(over).items():
        known = kept.get(name)
        # An entry of an earlier release has no lastCreated.
        if known is None or int(made) > epoch(known.get("lastCreated", known["lastTime"])):
            count = (known["count"] if known else 0) + 1
            created = stamp(max(made, youngest.get(name, made)))
            kept[name] = {"revision": name, "count": count, "lastTime": stamp(now), "lastCreated": created}
    return [kept[name] for name in sorted(kept) if name in wanted]


def _youngest(pods: Iterable[PodView]) -> dict[str, float]:
    """By revision, when the last pod was made."""
    found: dict[str, float] = {}
    for pod in pods:
        found[pod.revision] = max(pod.created, found.get(pod.revision, 0.0))
    return found


def not_before(entries: Iterable[Mapping[str, Any]], revision: str | None) -> float:
    """When the next pod of a revision may be made."""
    for entry in entries:
        if entry["revision"] == revision and entry["count"] > 1:
            pause = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(entry["count"] - 2, 16))
            return epoch(entry["lastTime"]) + float(pause)
    return 0.0
