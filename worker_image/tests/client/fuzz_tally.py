"""What calls in random order came to."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What there was."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind of call, and what came of it."""
    slowest: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    """Of this process, after each engine."""
    killed: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, outcome: str, seconds: float) -> None:
        self.outcomes[kind, outcome] += 1
        self.slowest[kind] = max(seconds, self.slowest.get(kind, 0.0))

    @property
    def calls(self) -> int:
        return sum(self.outcomes.values())

    def fault(self, text: str) -> None:
        self.faults.append(text)
        print(f"FAULT {text}", flush=True)

    def table(self) -> str:
        kinds = sorted({kind for kind, _ in self.outcomes})
        lines = ["call                      calls  slowest  what came of them"]
        for kind in kinds:
            found = {outcome: count for (of, outcome), count in self.outcomes.items() if of == kind}
            what = ", ".join(f"{outcome} {count}" for outcome, count in sorted(found.items(), key=lambda o: -o[1]))
            lines.append(f"{kind:24} {sum(found.values()):6} {self.slowest[kind]:7.1f}s  {what}")
        return "\n".join(lines)
