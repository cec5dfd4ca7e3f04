"""Pure decisions: a snapshot of one object and what surrounds it in, everything there is to do about it out.

`model` holds the types. `plan` decides about a pool, `plan_checkpoint` about a checkpoint, which outlives
pools and is shared by them. Neither keeps state, reads a clock or talks to anything. Each question is
answered in a file of its own:

    pods         what a pod is
    census       how many pods of which class and revision there are
    revision     what a revision is, and how it is kept
    proving      which revision pods are brought to, and when a new one is given up
    startup      whether pods 2..N wait for the first one's checkpoint
    rollout      how many to create, how many to delete and of which revision
    backoff      when a failed pod is replaced
    scale        which ones to delete
    zero         when a pool goes to zero, and when its Service leads to the waker
    polling      whose /state to read
    checkpoints  which VLLMCheckpoints the pool's workers speak of
    conditions   what to tell people; status puts it together
    retention    the life of a VLLMCheckpoint
    usage        its status: what workers say of it, and who uses it
"""

from vernal_operator.plan.pool import plan
from vernal_operator.plan.retention import plan_checkpoint

__all__ = ["plan", "plan_checkpoint"]
