"""How long a VLLMCheckpoint is kept.

While a pool uses it, it stays, even if someone deletes it (it is then gone as soon as no pool uses it). Without a user
it goes when its time is up (`unusedSeconds`), or when too many others of its model on its claim have been unused for
less long (`maxUnused`); but not while a pod of a pool could thaw it, which is on a node that fits (`plan.hosts`) and
that still exists. Whether one does is looked up only then, and again after a while.
"""

from collections.abc import Mapping
from typing import Any

from vernal_operator.api.storage import Retention
from vernal_operator.plan.model import CheckpointSnapshot
from vernal_operator.plan.times import epoch

UNKNOWN_USER_SECONDS = float(Retention().unused_seconds)
"""How long a checkpoint is kept whose users were never seen."""
AGAIN_SECONDS = 3600.0
"""Between two looks at the nodes that one is kept for."""


def expires(status: Mapping[str, Any], snapshot: CheckpointSnapshot) -> float | None:
    """When it may be deleted, by time alone; None while it is used, or to be retained."""
    wishes = status.get("retention") or {}
    if "unusedSince" not in status or not snapshot.workers_known or wishes.get("retain", False):
        return None
    return epoch(status["unusedSince"]) + float(wishes.get("unusedSeconds", UNKNOWN_USER_SECONDS))


def is_due(status: Mapping[str, Any], snapshot: CheckpointSnapshot) -> bool:
    """Whether it is to go, unless a node is there that fits. `status`: its own, as it is or as it is to be written."""
    moment = expires(status, snapshot)
    if moment is None or snapshot.checkpoint.deletion_time is not None:
        return False
    return snapshot.now >= moment or _is_surplus(status, snapshot)


def kept_for(snapshot: CheckpointSnapshot) -> list[str]:
    """Nodes that fit and exist."""
    return [node for node in snapshot.fitting if node not in snapshot.gone]


def _is_surplus(status: Mapping[str, Any], snapshot: CheckpointSnapshot) -> bool:
    """Whether as many as may stay have been unused for less long."""
    most = (status.get("retention") or {}).get("maxUnused")
    if most is None:
        return False
    mine = (status["unusedSince"], snapshot.checkpoint.name)
    alike = (s for s in snapshot.siblings if s.spec.model == snapshot.checkpoint.spec.model and s.deletion_time is None)
    younger = [sibling for sibling in alike if (sibling.status.get("unusedSince") or "", sibling.name) > mine]
    return len(younger) >= int(most)
