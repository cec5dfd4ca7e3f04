"""What came of the same cases with AsyncLLM and with CheckpointableAsyncLLM."""

import json
from pathlib import Path
from typing import Any

from programs import run

HERE = Path(__file__).parent

Report = dict[str, dict[str, Any]]
"""By engine and case."""


def reported(program: str, *arguments: str) -> Report:
    printed = run(HERE / program, *arguments)
    (line,) = [line for line in printed.splitlines() if line.startswith("report ")]
    found: Report = json.loads(line.removeprefix("report "))
    return found


def different(report: Report, kind: str) -> dict[str, Any]:
    """What came of the cases of this kind where it is not the same."""
    theirs, ours = report["AsyncLLM"], report["ours"]
    assert theirs.keys() == ours.keys()
    names = [name for name in theirs if name.startswith(kind)]
    assert names
    return {name: (theirs[name], ours[name]) for name in names if theirs[name] != ours[name]}
