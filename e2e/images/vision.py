#!/usr/bin/env python3
"""Prints a directory with torchvision, for models that see: `PYTHONPATH=$(python3 e2e/images/vision.py)`.

It goes with the torch of constraints/dev.txt. That environment has none, as vllm-cpu's image has none: what imports it
if it is there would be other code in every test. It is brought to the cache with uv.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import cache_dir
from common.lock import locked
from common.progress import step
from common.tools import ToolError, fail, run

from images.tools import ROOT, content_key, uv, uv_environment

PINS = ROOT / "constraints" / "vision.txt"


def directory() -> Path:
    """Raises:
    ToolError: it cannot be installed.
    """
    there = cache_dir() / f"vision-{content_key([PINS], sys.version)[:12]}"
    with locked(there, "bringing torchvision"):
        if not there.exists():
            new = there.with_name(there.name + ".new")
            shutil.rmtree(new, ignore_errors=True)
            with step("bringing torchvision to the cache (10 s)"):
                run(
                    [uv(), "pip", "install", "--no-deps", "--python", sys.executable, "--target", new, "-r", PINS],
                    "Check the network and pip's configuration, then run this again.",
                    uv_environment(),
                )
            new.rename(there)
    return there


def main() -> None:
    try:
        print(directory())
    except ToolError as error:
        fail(error)


if __name__ == "__main__":
    main()
