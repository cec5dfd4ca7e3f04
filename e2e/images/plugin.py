#!/usr/bin/env python3
"""Builds the kubectl plugin as one file: `python3 e2e/images/plugin.py [FILE]` (default: dist/kubectl-vernal).

The file is a zip archive with all that it needs (https://shiv.readthedocs.io); versions: constraints/plugin.txt.
The `kubernetes` client needs compiled modules (pydantic-core, aiohttp), so it is for machines like this one: the same
platform and the same Python, which its first line names. It unpacks itself below ~/.shiv when it runs first.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.progress import say, step
from common.tools import ToolError, fail, run

from images.tools import ROOT, uv, uv_environment

SHIV_VERSION = "1.0.8"
NAME = "kubectl-vernal"


def build(target: Path) -> None:
    """Write the file.

    Raises:
        ToolError: the packages cannot be had.
    """
    again = "Check the network and pip's configuration, then run this again."
    python = f"/usr/bin/env python{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory() as work, step(f"building {target} (15 s)"):
        tree = Path(work) / "tree"
        install: list[str | Path] = [uv(), "pip", "install", "--quiet", "--target", tree, "--python", sys.executable]
        install += ["--constraint", ROOT / "constraints" / "plugin.txt", ROOT / "plugin"]
        run(install, again, uv_environment())
        target.parent.mkdir(parents=True, exist_ok=True)
        pack: list[str | Path] = [uv(), "tool", "run", "--from", f"shiv=={SHIV_VERSION}", "shiv", "--compressed"]
        pack += ["--reproducible", "--site-packages", tree, "--console-script", NAME, "--python", python]
        run([*pack, "--output-file", target], again, uv_environment())
    say(f"{target}: {target.stat().st_size / 1e6:.1f} MB; put it on PATH, and `kubectl vernal --help` finds it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "dist" / NAME, help=f"default: dist/{NAME}")
    try:
        build(parser.parse_args().file.absolute())
    except ToolError as error:
        fail(error)


if __name__ == "__main__":
    main()
