#!/usr/bin/env python3
"""Prints the path of a CRIU for this machine's tests: `export VERNAL_CRIU=$(python3 e2e/images/criu.py path)`.

In this order: the program that VERNAL_CRIU names, `criu` on PATH if it is new enough, or one from Debian
unstable in the cache, brought there by worker_image/criu.py in 15 s. Nothing is installed on the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import cache_dir, made_once
from common.tools import ToolError, fail

from images.tools import ROOT, content_key, load_script

SCRIPT = ROOT / "worker_image" / "criu.py"


def criu_path() -> Path:
    """The executable, which is brought to the cache first if need be.

    Raises:
        ToolError: there is none and none can be had, or the one that VERNAL_CRIU names is too old.
    """
    # A plain `import criu` would find the file that you are reading.
    installer = load_script(SCRIPT)
    try:
        if named := os.environ.get("VERNAL_CRIU"):
            installer.check(Path(named))
            return Path(named)
        if found := shutil.which("criu"):
            try:
                installer.check(Path(found))
            except installer.CriuError:
                pass  # the distribution's own is often too old: a newer one is brought
            else:
                return Path(found)
    except installer.CriuError as error:
        raise ToolError(str(error)) from error
    return brought() / "criu"


def brought() -> Path:
    """The directory in the cache with Debian's CRIU and every library that it needs, brought there first if need be.

    Raises: ToolError: it cannot be had.
    """
    installer = load_script(SCRIPT)
    directory = cache_dir() / f"criu-{content_key([SCRIPT])[:12]}"
    try:
        return made_once(directory, "CRIU from Debian unstable, to the cache (15 s)", installer.install)
    except installer.CriuError as error:
        raise ToolError(str(error)) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["path"], help="print the path of the executable")
    parser.parse_args()
    try:
        print(criu_path())
    except ToolError as error:
        fail(error)


if __name__ == "__main__":
    main()
