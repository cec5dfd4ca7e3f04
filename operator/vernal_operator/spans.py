"""Stretches of time with names, and how they lie in each other: what a trace is made of. Pure.

Attributes are named by OpenTelemetry's semantic conventions where these have a word, and `vernal.` else.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

NAMESPACE = "k8s.namespace.name"
POD = "k8s.pod.name"
POD_UID = "k8s.pod.uid"
NODE = "k8s.node.name"
POOL = "vernal.pool.name"
REVISION = "vernal.pool.revision"
MODE = "vernal.start.mode"
REASON = "vernal.start.reason"
IDENTITY = "vernal.checkpoint.identity"
GENERATION = "vernal.checkpoint.generation"
OUTCOME = "vernal.wake.outcome"

TRACEPARENT = "traceparent"
"""The header of W3C Trace Context that names the span to go on with."""

Count = Callable[[str, int], None]
"""Is told how many spans were `sent`, `failed` to be or `dropped`."""


@dataclass(frozen=True, slots=True)
class Span:
    """`begin` and `end`: seconds since the epoch. Attributes hold for the children, too."""

    name: str
    begin: float
    end: float
    attributes: Mapping[str, str] = field(default_factory=dict)
    children: tuple["Span", ...] = ()

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def within(self, begin: float, end: float) -> "Span":
        """The same, moved into these bounds, and cut where it is longer than they are."""
        first = min(max(self.begin, begin), max(begin, end - self.seconds))
        return replace(self, begin=first, end=max(first, min(first + self.seconds, end)))


def laid(steps: Iterable[tuple[str, float]], begin: float, end: float) -> tuple[Span, ...]:
    """Steps of which only the seconds are known, one behind the other from `begin` on. Those that do not fit any more
    ran beside others: they are laid so that they end with `end`.
    """
    made, at = [], begin
    for name, seconds in steps:
        made.append(Span(name, at, at + max(0.0, seconds)).within(begin, end))
        at = made[-1].end
    return tuple(made)
