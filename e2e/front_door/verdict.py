"""What a soak found, and what of it is wrong."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MEMORY_GROWTH = 1.15
"""What allocators keep differs by so much between two looks."""

WRONG_WORDS = ("Traceback", "EngineDeadError", "thread_failed", "restart")
"""None of them may be in the log of a worker that ended in order."""


@dataclass(frozen=True)
class Measured:
    """Of a worker at rest: MB of memory that is not a file's, and descriptors, by process."""

    megabytes: dict[str, float]
    descriptors: dict[str, int]


@dataclass
class Report:
    """`good` and `bad`: what `front_door.good` and `front_door.bad` printed."""

    minutes: float
    good: dict[str, Any] = field(default_factory=dict)
    bad: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    before: Measured | None = None
    after: Measured | None = None
    slopes: dict[str, float] = field(default_factory=dict)
    """MB a minute in the second half, by process."""
    closed: list[str] = field(default_factory=list)

    def render(self) -> str:
        lines = [
            f"{self.minutes:g} minutes; the good clients: {self.good}",
            f"beside them, how often: {self.bad.get('done')}; connections: {self.bad.get('connected')}",
            *self.closed,
        ]
        if self.before and self.after:
            lines += [
                "",
                "| process | MB before | MB after | MB a minute, second half | descriptors before | after |",
                "|---|---|---|---|---|---|",
            ]
            for name, size in self.before.megabytes.items():
                lines.append(
                    f"| {name} | {size:.0f} | {self.after.megabytes[name]:.0f} | {self.slopes.get(name, 0.0):+.2f} "
                    f"| {self.before.descriptors[name]} | {self.after.descriptors[name]} |"
                )
        return "\n".join([*lines, "", *(self.problems or ["nothing lost, nothing left"])])


def of_the_good(good: Mapping[str, Any]) -> list[str]:
    """What clients lost. `good`: what they printed."""
    problems = [f"lost: {what}: {count}" for what, count in good.get("outcome", {}).items() if what != "whole"]
    if not (whole := good.get("whole", [])):
        problems.append("no client got anything")
    return problems + [f"client {number} got nothing" for number, count in enumerate(whole) if not count]


def of_the_bad(bad: Mapping[str, Any], kinds: Iterable[str]) -> list[str]:
    """Which of them did not do what they are for. `bad`: what they printed."""
    failed, connected = bad.get("failed", {}), bad.get("connected", {})
    problems = [f"misbehaviour {kind} ended with {why}" for kind, why in failed.items()]
    return problems + [
        f"misbehaviour {kind} never connected" for kind in dict.fromkeys(kinds) if not connected.get(kind)
    ]


def of_what_is_left(before: Measured, after: Measured) -> list[str]:
    """Memory and descriptors that grew."""
    problems = []
    for name, size in before.megabytes.items():
        if after.megabytes[name] > size * MEMORY_GROWTH:
            problems.append(f"{name} grew from {size:.0f} to {after.megabytes[name]:.0f} MB")
        if after.descriptors[name] > before.descriptors[name]:
            problems.append(f"{name} has {after.descriptors[name]} descriptors, {before.descriptors[name]} before")
    return problems


def of_the_log(text: str) -> list[str]:
    """Of a worker that has exited."""
    problems = []
    for word in WRONG_WORDS:
        if lines := [line for line in text.splitlines() if word in line]:
            problems.append(f"{len(lines)} lines with {word!r} in the log, the first: {lines[0]}")
    return problems


def slopes(samples: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """MB a minute by process, fitted to the second half of samples: seconds, and MB by process."""
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return {}
    minutes = [seconds / 60 for seconds, _ in half]
    return {
        name: statistics.linear_regression(minutes, [sizes[name] for _, sizes in half]).slope for name in half[0][1]
    }
