"""What users may expect when a server is told to stop, and what was seen."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

PROMISES: dict[str, str] = {
    "idle": "SIGTERM while idle: exit 0 soon",
    "finish": "requests in flight, streamed or not, run to their end",
    "exit": "then the server exits with 0",
    "sigint": "SIGINT is treated as SIGTERM is",
    "group": "children do not act on signals, also when the whole group gets them",
    "observable": "that it is shutting down can be seen: health, readiness, time left, requests in flight",
    "straggling": "requests that come while endpoints catch up are served, never answered with 500",
    "closed": "then no new connections; a request on an open one gets 503 with Retry-After",
    "bounded": "the wait is bounded: what is left then ends with an error in its own format",
    "second": "a second signal shortens the wait",
    "third": "a third signal stops at once",
    "starting": "SIGTERM while it starts: given up at once",
    "kv": "KV transfers finish before the exit, or time out",
    "died": "an engine that dies ends the server with an exit code that says so; its clients are told",
    "hung": "an engine that hangs does not hang the server",
    "stuck": "an engine that refuses to exit does not hang the server",
    "clean": "no process, socket, temporary file or shared memory is left",
}
"""The shutdown RFC's expectations and the cases in which vLLM is known to keep them or not, in the table's order."""


@dataclass(frozen=True)
class Finding:
    """What was seen of one promise."""

    promise: str  # a key of PROMISES
    holds: bool
    seen: str


@dataclass
class Findings:
    """Collects; nothing raises, so that one promise that is broken does not hide the others."""

    found: list[Finding] = field(default_factory=list)

    def add(self, promise: str, holds: bool, seen: str) -> None:
        assert promise in PROMISES
        self.found.append(Finding(promise, holds, seen))

    def broken(self) -> list[Finding]:
        return [finding for finding in self.found if not finding.holds]


def merge(findings: Iterable[Finding], promise: str) -> tuple[bool, str] | None:
    """All that was seen of one promise as one; None if nothing was."""
    mine = [finding for finding in findings if finding.promise == promise]
    if not mine:
        return None
    return all(finding.holds for finding in mine), "; ".join(finding.seen for finding in mine)


def table(alone: list[Finding], ours: list[Finding], width: int = 46) -> str:
    """Three columns of plain text, one promise a row."""
    lines = _row(("PROMISE", "vLLM ALONE", "VERNAL"), width)
    lines.append("-" * (3 * width + 4))
    for key, text in PROMISES.items():
        lines += _row((text, _cell(merge(alone, key)), _cell(merge(ours, key))), width)
        lines.append("")
    return "\n".join(lines)


def markdown(alone: list[Finding], ours: list[Finding]) -> str:
    lines = ["| promise | vLLM alone | Vernal |", "|---|---|---|"]
    for key, text in PROMISES.items():
        lines.append(f"| {text} | {_cell(merge(alone, key))} | {_cell(merge(ours, key))} |")
    return "\n".join(lines) + "\n"


def _cell(found: tuple[bool, str] | None) -> str:
    if found is None:
        return "-"
    holds, seen = found
    return f"{'kept' if holds else 'BROKEN'}: {seen}"


def _row(cells: tuple[str, str, str], width: int) -> list[str]:
    wrapped = [textwrap.wrap(cell, width) or [""] for cell in cells]
    height = max(map(len, wrapped))
    return [
        "  ".join((column[i] if i < len(column) else "").ljust(width) for column in wrapped).rstrip()
        for i in range(height)
    ]
