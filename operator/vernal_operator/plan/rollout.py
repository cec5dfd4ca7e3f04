"""How many pods to make and to delete, and of which revision, from what is there now. No step is stored anywhere.

R replicas, surge S, unavailable U. `new` pods are of the revision that is wanted, `old` ones of any other; P counts the
new ones that are available, once one of them is proof. A roll is *held* while no new pod is proven, or while it is
paused, and *released* else.

Always
    nothing is made that would make more than C = R + S pods, alive or (replaced by a roll) still draining
    no available pod is deleted if fewer than F = R - U would be left, except down to R where there are more than R
    pods that are not ready go before ready ones

Held                                                            Released
    new wanted = 1 (as many as there are, while paused)             new wanted = R
    old wanted = min(R - P, C - max(new wanted, new))               old wanted = 0, but
                                                                    old ones are made while there are less than F - P

So a roll that is held keeps the whole capacity, follows changes of scale with old pods, and leaves the first new pod
its place; and one whose proof is lost half-way is filled up with old pods again. It is hard where there is no place:
with S = 0, and with S > 0 where no node has a GPU left for the surge. There the first new pod takes an old one's place,
if U allows it.

One that is released is held to the floor: F pods are available or of the revision that is known to work, before a new
one more is made. New pods that do not become available, on some nodes only say, are never more than S + U: those that
a change of scale leaves above that go. What is lost meanwhile, or wanted by a change of scale, is made of what works.
In a roll that goes well this costs one more start for an old pod that is lost.

A step tries in this order; what an earlier one takes is not there for a later one:
    trim    new pods above R go (above R + 1 while one makes a new checkpoint, which is not trimmed)
    clear   old pods that are of no revision to go back to, and never were ready, go
    yield   new pods that never were ready go, where old ones lack their places
    fill    old pods are made up to old wanted, or to what the floor lacks, where there is a fallback to make them of
    grow    new pods are made up to new wanted
    replace old pods above old wanted go, those that are not ready first
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vernal_operator.api.pool import RolloutSpec
from vernal_operator.plan.census import Census
from vernal_operator.plan.model import PodView
from vernal_operator.plan.pods import PodClass
from vernal_operator.plan.polling import Heard, heard
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

    fill: int = 0
    grow: int = 0
    delete: tuple[tuple[PodView, str], ...] = ()
    ask: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How far a step may go.

    Attributes:
        released: a new pod is proven, or the wanted revision needs no proof.
        paused: the roll is to stand still.
        current: the revision that proved itself last, if it is known; wanted or an old one.
        can_fill: old pods of it can be made.
        one_at_first: only one new pod may start (`startup.waits_for_checkpoint`).
        makers: pods that may make a new checkpoint that was asked for (`renewal`); None if none is wanted. While there
            is neither a roll nor a change of scale, one more than replicas is made for it.
        why: reason of a replacement, in one word.
    """

    released: bool
    paused: bool = False
    current: str | None = None
    can_fill: bool = False
    one_at_first: bool = False
    makers: frozenset[str] | None = None
    why: str = "Rollout"


def step(pods: Census, limits: Bounds, rules: Rules, now: float) -> Step:
    """What to do now."""
    trim = _trim(pods, limits, rules, now)
    delete = [(pod, "ScaleDown") for pod in trim.victims]
    left = pods.without({pod.uid for pod in trim.victims})

    clear = [pod for pod in left.old if _is_debris(left, pod, rules)]
    delete += [(pod, rules.why) for pod in clear]
    left = left.without({pod.uid for pod in clear})

    new_wanted, old_wanted = _wanted(left, limits, rules)
    room = limits.ceiling - len(pods.alive) - len(pods.draining)
    old_made = max(old_wanted, limits.floor - pods.available(left.new))  # what is replaced down to is never less
    if rules.can_fill:
        idle = [pod for pod in left.new if not _works(left, pod)]
        spare = choose(left, idle, len(left.alive) - len(left.old) + old_made - limits.ceiling, now).victims
        delete += [(pod, "Stalled") for pod in spare]
        left = left.without({pod.uid for pod in spare})
    fill = max(0, min(old_made - len(left.old), room)) if rules.can_fill else 0
    grow = max(0, min(new_wanted - len(pods.new), room - fill))

    replace = _replace(left, limits, old_wanted, now)
    delete += [(pod, rules.why) for pod in replace.victims]
    return Step(fill, grow, tuple(delete), trim.ask | replace.ask)


def _trim(pods: Census, limits: Bounds, rules: Rules, now: float) -> Choice:
    """New pods that are too many."""
    extra = _extra(pods, limits, rules)
    if not extra:
        return choose(pods, pods.new, len(pods.new) - limits.replicas, now)
    makers, others = _makers(pods, rules)
    first = choose(pods, others, len(others) - limits.replicas, now)
    then = choose(pods, makers, len(makers) - max(1, limits.replicas - len(others)), now)
    return Choice(first.victims + then.victims, first.ask | then.ask)


def _makers(pods: Census, rules: Rules) -> tuple[list[PodView], list[PodView]]:
    """New pods that may make the checkpoint, and the others."""
    makers = rules.makers or frozenset()
    return [pod for pod in pods.new if pod.uid in makers], [pod for pod in pods.new if pod.uid not in makers]


def _extra(pods: Census, limits: Bounds, rules: Rules) -> int:
    """How many more than replicas there should be: one, if else none of them made the checkpoint that is asked for."""
    if rules.makers is None or pods.old or is_held(pods, rules) or rules.one_at_first or not limits.replicas:
        return 0
    return int(limits.surge > 0 and len(_makers(pods, rules)[1]) >= limits.replicas)


def is_held(pods: Census, rules: Rules) -> bool:
    """Whether there is a roll, and it waits."""
    rolling = bool(pods.old) or rules.can_fill
    return rolling and (rules.paused or not rules.released)


def _wanted(pods: Census, limits: Bounds, rules: Rules) -> tuple[int, int]:
    """How many new and how many old pods there should be."""
    if not is_held(pods, rules):
        wanted = limits.replicas + _extra(pods, limits, rules)
        return (min(1, limits.replicas) if rules.one_at_first else wanted), 0
    first = min(1, limits.replicas)
    new = first
    if rules.paused:
        new = len(pods.new)
        if not rules.can_fill:  # missing pods can only be new ones
            missing = limits.replicas - len(pods.old)
            new = max(new, missing if rules.released else min(first, missing))
    proof = pods.available(pods.new) if rules.released else 0
    old = min(limits.replicas - proof, limits.ceiling - max(new, len(pods.new)))
    if limits.unavailable > 0 and pods.among(pods.new, PodClass.UNSCHEDULABLE):
        old = min(old, limits.replicas - 1)
    return new, max(0, old)


def _is_debris(pods: Census, pod: PodView, rules: Rules) -> bool:
    """Whether it is what is left of a revision that was given up, and does not work: it holds a place that a pod that
    works could have. A pod that runs and was ready, or may have been, is none: its network may come back.
    """
    return rules.current is not None and pod.revision != rules.current and not _works(pods, pod)


def _works(pods: Census, pod: PodView) -> bool:
    """Whether it serves, or may again."""
    return pods.meaning(pod).ready or (pod.running and heard(pod) is not Heard.NOT_READY)


def _replace(pods: Census, limits: Bounds, old_wanted: int, now: float) -> Choice:
    """Old pods that can go."""
    unready = [pod for pod in pods.old if not pods.meaning(pod).ready]
    serving = [pod for pod in pods.old if pods.meaning(pod).ready]
    surplus = len(pods.old) - old_wanted
    # Old pods that are not ready may be about to be, all of them at once (a network that comes back): they
    # count as if they were available here, so that a blip cannot take a whole pool.
    broken = max(0, min(len(unready), surplus, pods.available(pods.new) + len(pods.old) - limits.floor))
    spare = max(0, min(surplus - broken, pods.available(pods.alive) - limits.floor))
    first = choose(pods, unready, broken, now)
    then = choose(pods, serving, spare, now)
    return Choice(first.victims + then.victims, first.ask | then.ask)
