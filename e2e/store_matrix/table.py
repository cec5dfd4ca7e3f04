"""The table, computed from what each run came to: pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PUBLISHED, REFUSED = "published", "refused"
RED = {
    "half": "an artifact was found, held and then incomplete",
    "wrong": "a reader was given other bytes than were written",
    "lost": "it was said to be published, and nobody finds it",
    "hangs": "a call took longer than the code's own bound",
    "stuck": "the fault is over, and no creator can publish any more",
    "leftover": "the collector leaves something behind",
    "deleted": "the collector took what is in use",
    "broken": "the code failed in a way that is no reason",
}
"""What must not be, and what each word means."""


@dataclass(frozen=True)
class Run:
    """What one run came to.

    Attributes:
        outcome: `published` (the next reader has every byte right), `refused` (it finds none), or a red word.
        reason: of a refusal; of a red word what was seen.
        point: where the fault struck, for people.
    """

    outcome: str
    reason: str = ""
    point: str = ""


@dataclass(frozen=True)
class Cell:
    """All runs of a fault in a place, or why there are none."""

    runs: tuple[Run, ...] = ()
    not_run: str = ""

    @property
    def red(self) -> list[Run]:
        return [run for run in self.runs if run.outcome in RED]

    def __str__(self) -> str:
        if self.not_run:
            return f"not run: {self.not_run}"
        if self.red:
            words = Counter(run.outcome.upper() for run in self.red)
            return ", ".join(f"{word} {count}" for word, count in words.items()) + f" of {len(self.runs)}"
        published = sum(run.outcome == PUBLISHED for run in self.runs)
        reasons = Counter(run.reason for run in self.runs if run.outcome == REFUSED)
        parts = [f"published {published}"] if published else []
        if reasons:
            parts.append(f"refused {sum(reasons.values())}: {', '.join(sorted(reasons))}")
        return "; ".join(parts)


def markdown(faults: Sequence[str], rows: Mapping[str, Mapping[str, Cell]]) -> str:
    """For a page, which is too narrow for a column a fault: a line for each fault, a column for each place. A place in
    which nothing was run for one reason says so once, below."""
    silent = {place: why for place, cells in rows.items() if (why := _only_reason(cells))}
    shown = [place for place in rows if place not in silent]
    lines = [f"| fault | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    lines += [f"| {fault} | {' | '.join(_short(rows[place].get(fault)) for place in shown)} |" for fault in faults]
    lines += ["", *(f"{place}: not run: {why}" for place, why in silent.items())] if silent else []
    return "\n".join(lines)


def _short(cell: Cell | None) -> str:
    return "" if cell is None else "-" if cell.not_run else str(cell)


def _only_reason(cells: Mapping[str, Cell]) -> str:
    reasons = {cell.not_run for cell in cells.values()}
    return reasons.pop() if len(reasons) == 1 else ""


def listing(faults: Sequence[str], rows: Mapping[str, Mapping[str, Cell]]) -> str:
    """The same for a terminal: the cells of a place one below the other."""
    width = max(map(len, faults))
    lines = []
    for place, cells in rows.items():
        lines += ["", place, *(f"  {fault:<{width}}  {cells[fault]}" for fault in faults if fault in cells)]
    return "\n".join(lines).lstrip("\n")


def red(rows: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """A line for each run that must not have come to this."""
    return [
        f"{place}, {fault}{f', {run.point}' if run.point else ''}: {run.outcome.upper()}: {RED[run.outcome]}"
        f"{f' ({run.reason})' if run.reason else ''}"
        for place, cells in rows.items()
        for fault, cell in cells.items()
        for run in cell.red
    ]


def summary(rows: Mapping[str, Mapping[str, Cell]]) -> str:
    """The last line."""
    cells = [cell for row in rows.values() for cell in row.values()]
    runs = [run for cell in cells for run in cell.runs]
    words = Counter(run.outcome for run in runs)
    bad = sum(words[word] for word in RED)
    skipped = sum(bool(cell.not_run) for cell in cells)
    return (
        f"{len(runs)} runs in {len(cells) - skipped} cells: {words[PUBLISHED]} published, {words[REFUSED]} refused, "
        f"{bad} half, wrong or hanging; {skipped} cells not run"
    )
