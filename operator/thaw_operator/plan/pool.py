"""`plan`: the one entry for a pool. Each question is answered by a policy in a file of its own."""

from thaw_operator.plan.model import Decisions, Snapshot


def plan(snapshot: Snapshot) -> Decisions:
    """Decide everything there is to do about a pool."""
    raise NotImplementedError
