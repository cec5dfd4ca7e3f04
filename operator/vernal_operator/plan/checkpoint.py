"""`plan_checkpoint`: the one entry for a VLLMCheckpoint, from the first worker that reports it to the last file.

Pools make checkpoints; only this plan writes their status, deletes them and lets them go.
"""

from dataclasses import replace

from vernal_operator.plan import prefetch as prefetching
from vernal_operator.plan import retention
from vernal_operator.plan.janitor import let_go
from vernal_operator.plan.model import CheckpointDecisions, CheckpointSnapshot, ObjectRef
from vernal_operator.plan.own import own_checkpoint_status, to_write
from vernal_operator.plan.usage import checkpoint_events, checkpoint_status


def plan_checkpoint(snapshot: CheckpointSnapshot) -> CheckpointDecisions:
    """Decide everything there is to do about a checkpoint."""
    view, now = snapshot.checkpoint, snapshot.now
    if view.deletion_time is not None and not snapshot.users and snapshot.workers_known:
        gone = let_go(snapshot)
        return replace(gone, remove=(*prefetching.end(snapshot), *gone.remove))
    status = checkpoint_status(snapshot)
    fetching = prefetching.prefetch(snapshot, status)
    if fetching.status is not None:
        status["prefetch"] = dict(fetching.status)
    due = retention.is_due(status, snapshot)
    nodes = retention.kept_for(snapshot) if due else []
    if nodes:
        status["keptFor"] = nodes
    expires = retention.expires(status, snapshot)
    wait = None if expires is None or (due and not nodes) else retention.AGAIN_SECONDS if due else expires - now
    # A Job of before it was used again: its success says nothing about the files that were written since.
    stale = snapshot.job if snapshot.users and snapshot.job is not None and not snapshot.job.going else None
    return CheckpointDecisions(
        delete=ObjectRef("VLLMCheckpoint", view.name, view.uid) if due and not nodes else None,
        create=() if due and not nodes else fetching.create,
        remove=(*(() if stale is None else (ObjectRef("Job", stale.name, stale.uid),)), *fetching.remove),
        status=to_write(status, own_checkpoint_status(view.status)),
        events=(*checkpoint_events(snapshot, status), *fetching.events),
        requeue_after=min((max(1.0, s) for s in (wait, fetching.requeue_after) if s is not None), default=None),
    )
