"""The table, as text and as Markdown: pure."""

from collections.abc import Sequence

from engines.row import Result

_HEAD = ("kind of engine", "device", "frozen", "thawed", "compared", "questions", "what differs")


def outcome(result: Result) -> str:
    """One cell: what differs, what vLLM cannot do here, or "nothing"."""
    parts = [f"FAILS: {'; '.join(result.found)}"] if result.found else []
    parts += [f"vLLM cannot: {sentence}" for sentence in result.cannot]
    return "; ".join(parts) or "nothing"


def markdown(results: Sequence[Result]) -> str:
    """A row of the table for each result."""
    rows = [_HEAD, *(_cells(result) for result in results)]
    lines = [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(_HEAD), *lines[1:]])


def _cells(result: Result) -> tuple[str, ...]:
    questions = str(result.questions or "-")
    return (result.row, result.device, result.frozen, result.thawed, result.compared, questions, outcome(result))


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def summary(results: Sequence[Result]) -> str:
    """The last line: how many rows failed, and which."""
    failed = [result.row for result in results if not result.ok]
    cannot = sum(1 for result in results if result.ok and result.cannot)
    equal = len(results) - len(failed) - cannot
    more = f": {', '.join(failed)}" if failed else ""
    return f"{equal} equal, {cannot} that vLLM cannot do here (in whole or in part), {len(failed)} failed{more}"
