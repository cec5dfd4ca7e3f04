"""`python -m checkers`: build the programs that check the chart and the workflow files.

`python -m checkers docs` writes charts/vernal/README.md.
"""

import argparse
import subprocess
from pathlib import Path

from common.tools import ToolError, fail

from checkers import ensure

CHART = Path(__file__).parents[2] / "charts" / "vernal"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m checkers", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["build", "docs"], default="build")
    arguments = parser.parse_args()
    try:
        programs = ensure()
    except ToolError as error:
        fail(error)
    if arguments.what == "docs":
        subprocess.run([programs["helm-docs"], f"--chart-search-root={CHART}"], check=True)
    else:
        print("\n".join(programs.values()))


if __name__ == "__main__":
    main()
