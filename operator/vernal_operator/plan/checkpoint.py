"""`plan_checkpoint`: the one entry for a VLLMCheckpoint, from the first worker that reports it to the last file.

Pools make checkpoints; only this plan writes their status, deletes them and lets them go.
"""

from vernal_operator.plan import retention
from vernal_operator.plan.janitor import let_go
from vernal_operator.plan.model import CheckpointDecisions, CheckpointSnapshot, ObjectRef
from vernal_operator.plan.own import own_checkpoint_status, to_write
from vernal_operator.plan.usage import checkpoint_events, checkpoint_status


def plan_checkpoint(snapshot: CheckpointSnapshot) -> CheckpointDecisions:
    """Decide everything there is to do about a checkpoint."""
    view, now = snapshot.checkpoint, snapshot.now
    if view.deletion_time is not None and not snapshot.users and snapshot.workers_known:
        return let_go(snapshot)
    status = checkpoint_status(snapshot)
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
        remove=() if stale is None else (ObjectRef("Job", stale.name, stale.uid),),
        status=to_write(status, own_checkpoint_status(view.status)),
        events=tuple(checkpoint_events(snapshot, status)),
        requeue_after=None if wait is None else max(1.0, wait),
    )
