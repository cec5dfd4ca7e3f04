"""What the demo found: a row a pod, a line a check, and whether all of it held."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One worker. Times in seconds since its pod was created."""

    pod: str
    mode: str
    reason: str
    ready: float
    first_token: float | None
    same_answer: bool


@dataclass
class Report:
    rows: list[Row] = field(default_factory=list)
    checks: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """What was seen and decides nothing, such as speed."""
        self.notes.append(text)

    def check(self, text: str, held: bool) -> None:
        self.checks.append((text, held))

    def add(self, other: "Report") -> None:
        """What another scenario found."""
        self.rows += other.rows
        self.checks += other.checks
        self.notes += other.notes

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(held for _, held in self.checks)

    def render(self) -> str:
        head = ("POD", "START", "REASON", "READY s", "FIRST TOKEN s", "SAME ANSWER")
        body = [
            (r.pod, r.mode, r.reason, f"{r.ready:.1f}", "-" if r.first_token is None else f"{r.first_token:.1f}",
             "yes" if r.same_answer else "NO")
            for r in self.rows
        ]  # fmt: skip
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in ([head, *body] if body else [])
        ]
        lines += ["", *self.notes, *(f"[{'ok' if held else 'FAILED'}] {text}" for text, held in self.checks)]
        return "\n".join(line.rstrip() for line in lines)
