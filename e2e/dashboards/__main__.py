"""Draw the chart's Grafana dashboards: make dashboards-pictures

PYTHONPATH=e2e .venv/bin/python -m dashboards                               # writes docs/pictures/*.svg
PYTHONPATH=e2e .venv/bin/python -m dashboards --folder /tmp/x --format png  # to look at
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import checkers
from checkers.tests import exported
from common.progress import step
from common.tools import ToolError, fail, run
from images.tools import ROOT, uv, uv_environment

from dashboards.evaluate import evaluate, load, panels, times
from dashboards.pictures import BOARDS, PICTURES, digest
from dashboards.story import told


def data(promtool: str, folder: Path) -> dict[str, Any]:
    """All that the pictures show."""
    boards = load(BOARDS)
    queries = [target["expr"] for board in boards.values() for panel in board["panels"] for target in panel["targets"]]
    points = evaluate(promtool, told(exported.everything(exported.engine())), queries, folder)
    return {
        "minutes": times(),
        "boards": {
            name: {"title": board["title"], "digest": digest(BOARDS / f"{name}.json"), "panels": panels(board, points)}
            for name, board in boards.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dashboards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=PICTURES, help="where the pictures go (default: docs/pictures)")
    parser.add_argument("--format", choices=["svg", "png"], default="svg", help="default: svg")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as work:
            with step("evaluating the queries (20 s)"):
                found = data(checkers.ensure()["promtool"], Path(work))
            (Path(work) / "data.json").write_text(json.dumps(found))
            command: list[str | Path] = [uv(), "run", "--no-project", "--python", sys.executable, "--with-requirements"]
            command += [ROOT / "constraints" / "dashboards.txt", "python", "-m", "dashboards.draw", f"{work}/data.json"]
            command += [arguments.folder.absolute(), f"--format={arguments.format}"]
            with step("drawing (10 s)"):
                run(command, "Please report this.", uv_environment() | {"PYTHONPATH": str(ROOT / "e2e")})
    except ToolError as error:
        fail(error)


if __name__ == "__main__":
    main()
