"""How many pods to create and to delete, from what is there now. No step is stored anywhere.

With R replicas, surge S and unavailable U, at every moment:

* Nothing is created that would make more than R + S pods, alive or (if a roll is replacing them) still
  draining.
* No pod that is ready is deleted if fewer than R - U would be left, except down to R when there are more than
  R.
* While pods of an old revision are alive, the second pod of the new revision waits for the first to prove
  itself; until then old pods make room for that one only.
* Pods that are not ready go before ready ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vernal_operator.api.pool import RolloutSpec
from vernal_operator.plan.census import Census, ready
from vernal_operator.plan.model import PodView
from vernal_operator.plan.scale import Choice, choose


@dataclass(frozen=True, slots=True)
class Bounds:
    """In pods."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def ceiling(self) -> int:
        return self.replicas + self.surge

    @property
    def floor(self) -> int:
        return max(0, self.replicas - self.unavailable)


def bounds(replicas: int, rollout: RolloutSpec) -> Bounds:
    """Percentages of `replicas`, rounded as a Deployment does: surge up, unavailable down, never both to
    0.
    """
    surge = _pods(rollout.max_surge, replicas, math.ceil)
    unavailable = _pods(rollout.max_unavailable, replicas, math.floor)
    return Bounds(replicas, surge, 1 if surge == unavailable == 0 else unavailable)


def _pods(value: int | str, replicas: int, rounded: Callable[[float], int]) -> int:
    return value if isinstance(value, int) else rounded(int(value.removesuffix("%")) * replicas / 100)


@dataclass(frozen=True, slots=True)
class Step:
    """What a roll or a change of scale does now. `delete` holds pods with a one-word reason."""

    create: int
    delete: tuple[tuple[PodView, str], ...]
    ask: frozenset[str]


def step(
    pods: Census,
    limits: Bounds,
    *,
    proven: bool,
    one_at_first: bool,
    draining: int,
    wanted_revision: str,
    now: float,
) -> Step:
    """What to do now.

    Args:
        proven: a pod of the wanted revision is ready (`startup.proven`).
        one_at_first: only one pod may start (`startup.waits_for_checkpoint`).
        draining: terminating pods that count against the ceiling (`census.still_draining`).
    """
    rolling = bool(pods.old)
    wanted = limits.replicas
    if one_at_first or (rolling and not proven):
        wanted = min(1, wanted)
    room = limits.ceiling - len(pods.alive) - draining
    create = max(0, min(wanted - len(pods.new), room))

    surplus = choose(pods.new, len(pods.new) - limits.replicas, wanted_revision, now)
    gone = {pod.uid for pod in surplus.victims}
    kept = Census(tuple(p for p in pods.new if p.uid not in gone), pods.old, pods.failed, pods.terminating)
    replaced = _replaced(kept, limits, proven=proven, wanted_revision=wanted_revision, now=now)
    delete = [(pod, "ScaleDown") for pod in surplus.victims]
    delete += [(pod, "Rollout") for pod in replaced.victims]
    return Step(create, tuple(delete), surplus.ask | replaced.ask)


def _replaced(pods: Census, limits: Bounds, *, proven: bool, wanted_revision: str, now: float) -> Choice:
    """Pods of old revisions that can go."""
    unready = [pod for pod in pods.old if not pod.ready]
    serving = [pod for pod in pods.old if pod.ready]
    surplus = len(pods.old) - (0 if proven else _old_to_keep(pods, limits))
    # Old pods that are not ready may be about to be, all of them at once (a network that comes back): they
    # count as if they were ready here, so that a blip cannot take a whole pool.
    broken = max(0, min(len(unready), surplus, ready(pods.new) + len(pods.old) - limits.floor))
    spare = max(0, min(surplus - broken, ready(pods.alive) - limits.floor))
    first = choose(unready, broken, wanted_revision, now)
    then = choose(serving, spare, wanted_revision, now)
    return Choice(first.victims + then.victims, first.ask | then.ask)


def _old_to_keep(pods: Census, limits: Bounds) -> int:
    """How many old pods stay until the new revision has proven itself: all but what its first pod needs."""
    keep = min(limits.replicas, limits.ceiling - max(1, len(pods.new)))
    if limits.unavailable > 0 and any(pod.unschedulable for pod in pods.new):
        keep = min(keep, limits.replicas - 1)  # there is no node for a surge: the first pod takes an old one's place
    return max(0, keep)
