"""When a failed pod is replaced: the first at once, one that failed in its stead later, and so on.

A pod fails for good (phase Failed) when it is evicted, when its node shuts down, or when a kubelet refuses it; the last
can happen again at once, for ever. Crashes of containers are the kubelet's to slow down, not ours. Counted are failures
in a row: of a pod that was made after the one before had failed. Pods that fail together count once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from vernal_operator.plan.model import Manifest, PodView
from vernal_operator.plan.times import epoch, not_ahead, stamp

FIRST_SECONDS, LONGEST_SECONDS = 10.0, 300.0
FORGET_SECONDS = 600.0
"""A failure counts no longer than this."""


def failures(
    old: Iterable[Mapping[str, Any]], over: Iterable[PodView], revisions: Iterable[str | None], now: float
) -> list[Manifest]:
    """status.failedPods: what it was, with the pods that are over now. Only `revisions` are kept."""
    kept = {
        entry["revision"]: {**entry, "lastTime": stamp(last)}
        for entry in old
        if now < (last := not_ahead(epoch(entry["lastTime"]), now)) + FORGET_SECONDS
    }
    wanted = set(revisions)
    latest: dict[str, float] = {}  # of each revision, when the youngest pod that is over was made
    for pod in over:
        latest[pod.revision] = max(pod.created, latest.get(pod.revision, 0.0))
    for name, made in latest.items():
        known = kept.get(name)
        if known is None or made > epoch(known["lastTime"]):
            kept[name] = {"revision": name, "count": (known["count"] if known else 0) + 1, "lastTime": stamp(now)}
    return [kept[name] for name in sorted(kept) if name in wanted]


def not_before(entries: Iterable[Mapping[str, Any]], revision: str | None) -> float:
    """When the next pod of a revision may be made."""
    for entry in entries:
        if entry["revision"] == revision and entry["count"] > 1:
            pause = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(entry["count"] - 2, 16))
            return epoch(entry["lastTime"]) + float(pause)
    return 0.0
