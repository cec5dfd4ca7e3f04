#!/usr/bin/env python3
"""Prints a directory with the packages of constraints/NAME.txt: `PYTHONPATH=$(python3 e2e/images/beside.py media)`.

For the one program that needs them: in the environment of constraints/dev.txt they would be other code in every test.
They are brought to the cache with uv.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import cache_dir, made_once
from common.tools import ToolError, fail, run

from images.tools import ROOT, content_key, uv, uv_environment


def packages(name: str) -> Path:
    """The directory.

    Raises:
        ToolError: they cannot be installed.
    """
    pins = ROOT / "constraints" / f"{name}.txt"

    def install(new: Path) -> None:
        command: list[str | Path] = [uv(), "pip", "install", "--no-deps", "--python", sys.executable]
        again = "Check the network and pip's configuration, then run this again."
        run([*command, "--target", new, "-r", pins], again, uv_environment())

    there = cache_dir() / f"{name}-{content_key([pins], sys.version)[:12]}"
    return made_once(there, f"installing constraints/{name}.txt into the cache (10 s)", install)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["media", "store-matrix"], help="of the file in constraints/")
    try:
        print(packages(parser.parse_args().name))
    except ToolError as error:
        fail(error)


if __name__ == "__main__":
    main()
