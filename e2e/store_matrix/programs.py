"""What makes and serves file systems, from Debian packages unpacked into the cache: nothing is installed."""

import os
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cluster.packages import Unpacked, unpacked
from common.tools import ToolError
from images.beside import packages
from images.tools import ROOT

from store_matrix.errors import CannotError

_PACKAGES = {
    "ext4": ("e2fsprogs",),
    "xfs": ("xfsprogs", "libinih1", "liburcu8"),
    "btrfs": ("btrfs-progs", "liblzo2-2"),
    "fuse": ("libfuse3-3",),
}
"""With what they need beyond a minimal machine's libraries; named as in Debian 12."""


def mkfs(kind: str) -> tuple[str, dict[str, str]]:
    """The program that makes such a file system, and the variables that it needs.

    Raises: CannotError: there is none.
    """
    program = f"mkfs.{kind}"
    if found := shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        return found, {}
    packages = _packages(kind)
    for folder in ("usr/sbin", "sbin", "usr/bin", "bin"):
        if (packages.root / folder / program).exists():
            return str(packages.root / folder / program), {"LD_LIBRARY_PATH": packages.libraries}
    raise CannotError(f"the packages {', '.join(_PACKAGES[kind])} have no {program}")


def fuse_server(*arguments: str | Path) -> tuple[Sequence[str | Path], dict[str, str]]:
    """The command that serves a FUSE file system with our faults, and its variables.

    Raises: CannotError: libfuse or mfusepy is not to be had.
    """
    libraries = _packages("fuse").root.rglob("libfuse3.so.3")
    variables = {"FUSE_LIBRARY_PATH": str(next(libraries)), "PYTHONPATH": f"{ROOT / 'e2e'}:{_mfusepy()}"}
    return [sys.executable, "-m", "store_matrix.fault_fs", *arguments], variables


def _mfusepy() -> Path:
    try:
        return packages("store-matrix")
    except ToolError as error:
        raise CannotError(str(error).splitlines()[0]) from error


@cache
def clock(seconds: int) -> dict[str, str]:
    """Variables with which a program's clock is off by so many seconds, while files' times are the kernel's.

    Raises: CannotError: libfaketime is not to be had.
    """
    library = next(_unpacked("libfaketime").root.rglob("libfaketime.so.1"))
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds:+d}",
        "NO_FAKE_STAT": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def _packages(kind: str) -> Unpacked:
    return _unpacked(*_PACKAGES[kind])


def _unpacked(*names: str) -> Unpacked:
    try:
        return unpacked("file-systems", names, names)
    except ToolError as error:
        raise CannotError(str(error).splitlines()[0]) from error
