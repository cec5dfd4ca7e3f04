"""Which starts a checkpoint's counters hold (`status.counted`), so that each counts once.

A worker names its starts, because who asks an address does not know how often the container behind it has been
restarted at that moment. It cannot make more of them than there were: a pod's next start counts only once its container
is seen to have been restarted since. Entries are POD_UID/START and POD_UID/RESTARTS, the latter left out where it is 0.
"""

from collections.abc import Iterable, Sequence

from vernal_operator.plan.model import CheckpointSnapshot, WorkerUse

_DIGITS = 10  # of a number of restarts; a start's name may consist of digits, too


class Counted:
    """The entries of a status."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._of: dict[str, list[str]] = {}
        for entry in entries:
            self._of.setdefault(entry.partition("/")[0], []).append(entry)

    def lacks(self, use: WorkerUse) -> bool:
        """Whether a start is to be counted."""
        entries = self._of.get(use.pod_uid)
        return entries is None or (use.key not in entries and use.restarts > max(map(_restarts, entries)))

    def after(self, snapshot: CheckpointSnapshot, fresh: Sequence[WorkerUse]) -> list[str]:
        """The entries once `fresh` were counted. Only of live pods: what is gone cannot be counted again."""
        live = snapshot.pods.union(use.pod_uid for use in snapshot.workers)
        kept = {uid: own for uid, own in self._of.items() if uid in live or not snapshot.workers_known}
        for use in fresh:
            mark = [f"{use.pod_uid}/{use.restarts}"] if use.restarts else []
            kept[use.pod_uid] = [use.key, *mark]
        return sorted({entry for own in kept.values() for entry in own})


def _restarts(entry: str) -> int:
    text = entry.partition("/")[2]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else 0
