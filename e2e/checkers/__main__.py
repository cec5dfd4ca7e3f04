"""Build the programs that check the chart and the workflow files, and write what is generated from the chart.

PYTHONPATH=e2e python3 -m checkers build    # helm-docs, kubeconform, promtool, actionlint: prints their paths
PYTHONPATH=e2e python3 -m checkers docs     # writes charts/vernal/README.md from its values
"""

import argparse
import subprocess
from pathlib import Path

from common.tools import ToolError, fail
from images.tools import install

from checkers import ensure

CHART = Path(__file__).parents[2] / "charts" / "vernal"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m checkers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="?", choices=["build", "docs"], default="build", help="what to do (default: %(default)s)"
    )
    arguments = parser.parse_args()
    try:
        # Before tests run: an installed package is another identity, for an engine that was frozen before.
        install({"zsh": "zsh", "g++": "g++"}, "Tests try the plugin's completion in zsh, and compile with g++")
        programs = ensure()
    except ToolError as error:
        fail(error)
    if arguments.what == "docs":
        subprocess.run([programs["helm-docs"], f"--chart-search-root={CHART}"], check=True)
    else:
        print("\n".join(programs.values()))


if __name__ == "__main__":
    main()
