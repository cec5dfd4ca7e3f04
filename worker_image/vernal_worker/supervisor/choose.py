"""How to start: pure decisions, made from what was found."""

import msgspec
from vernal_contract.config import CheckpointPolicy
from vernal_contract.reasons import Reason

from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.node_cache import View
from vernal_worker.store.quarantine import Quarantine
from vernal_worker.store.reading import Reading
from vernal_worker.store.store import Lookup


class Thaw(msgspec.Struct, frozen=True):
    """Thaw `artifact`. `doubted`: thaws of it have failed before, which is to be forgiven if this one works. `reading`:
    to be released when the thaw has ended; so is `view`, where the artifact is the node cache's."""

    artifact: Artifact
    doubted: bool = False
    reading: Reading | None = None
    view: View | None = None


class Cold(msgspec.Struct, frozen=True):
    """Start vLLM. `reason` and `message` say why it is not a thaw; `freeze` whether to make a checkpoint."""

    reason: Reason
    message: str
    freeze: bool


class GiveUp(msgspec.Struct, frozen=True):
    """Do not start: policy Required forbids a cold start, except one that makes the checkpoint."""

    reason: Reason
    message: str


def disabled() -> Cold:
    """Policy Disabled."""
    return Cold(Reason.POLICY_DISABLED, "the pool's checkpoint policy is Disabled", freeze=False)


def unsupported(policy: CheckpointPolicy, problem: str) -> Cold | GiveUp:
    """The host can neither freeze nor thaw."""
    return _no_checkpoint(policy, Reason.HOST_UNSUPPORTED, problem)


def unresolved(policy: CheckpointPolicy, problem: str) -> Cold | GiveUp:
    """It is not known which content the model's name stands for."""
    return _no_checkpoint(policy, Reason.MODEL_UNRESOLVED, problem)


def unreadable(policy: CheckpointPolicy, problem: str) -> Cold | GiveUp:
    """Something besides the model cannot be read, so it is not known what would be frozen."""
    return _no_checkpoint(policy, Reason.CONTENT_UNREADABLE, problem)


def from_lookup(lookup: Lookup) -> Thaw | Cold:
    """The store answered. With nothing that fits, this worker makes a checkpoint if it gets the lease, and if one may
    be made already in the place of one that was given up."""
    if lookup.artifact is not None:
        return Thaw(lookup.artifact, lookup.doubted, lookup.reading, lookup.view)
    return Cold(lookup.reason or Reason.NO_ARTIFACT, lookup.message, freeze=lookup.seconds_left <= 0)


def from_store_error(policy: CheckpointPolicy, error: StoreError) -> Cold | GiveUp:
    """The store cannot be used at all."""
    return _no_checkpoint(policy, error.reason, error.message)


def after_failed_thaw(
    policy: CheckpointPolicy, reason: Reason, message: str, given_up: Quarantine | None
) -> Cold | GiveUp:
    """A checkpoint that fitted did not come up. While it may still be good for others, no new one is made."""
    if policy is CheckpointPolicy.REQUIRED:
        return GiveUp(reason, message)
    return Cold(reason, message, freeze=given_up is not None and given_up.seconds_left <= 0)


def _no_checkpoint(policy: CheckpointPolicy, reason: Reason, message: str) -> Cold | GiveUp:
    """Neither a thaw nor a freeze is possible."""
    if policy is CheckpointPolicy.REQUIRED:
        return GiveUp(reason, message)
    return Cold(reason, message, freeze=False)


def must_skip_freeze(published: str | None, holder: str | None, leased: bool) -> tuple[Reason, str] | None:
    """Why a worker that was to make a checkpoint does not, once its engine is up; None if it goes on.

    Args:
        published: the generation that a fresh look at the store has found: another worker's.
        holder: who has the lease, if it is known.
        leased: whether it is us.
    """
    if published is not None:
        return Reason.PUBLISHED_BY_OTHER, f"generation {published} was published during the cold start"
    if not leased:
        return Reason.LEASE_HELD, f"{holder or 'another worker'} makes the checkpoint"
    return None
