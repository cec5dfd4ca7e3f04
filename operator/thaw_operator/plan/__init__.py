"""Pure decisions: a snapshot of one object and what surrounds it in, everything there is to do about it out.

`model` holds the types. `plan` decides about a pool, `plan_checkpoint` about a checkpoint, which outlives
pools and is shared by them. Neither keeps state, reads a clock or talks to anything.
"""

from thaw_operator.plan.checkpoint import plan_checkpoint
from thaw_operator.plan.pool import plan

__all__ = ["plan", "plan_checkpoint"]
