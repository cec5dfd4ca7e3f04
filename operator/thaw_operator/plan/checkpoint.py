"""`plan_checkpoint`: the one entry for a checkpoint."""

from thaw_operator.plan.model import CheckpointDecisions, CheckpointSnapshot


def plan_checkpoint(snapshot: CheckpointSnapshot) -> CheckpointDecisions:
    """Decide everything there is to do about a checkpoint."""
    raise NotImplementedError
