"""Which faults of which storage the store survives: make store-matrix"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.progress import duration, say
from common.tools import ToolError, fail

from store_matrix import faults, kernel, places, table
from store_matrix.errors import CannotError
from store_matrix.table import Cell

_EPILOG = """\
as root:
  make venv && export PYTHONPATH=e2e:worker_image/tests/bucket
  .venv/bin/python -m store_matrix                                   # all of it
  .venv/bin/python -m store_matrix --only ext4 --fault "power cut" --points 1000
  .venv/bin/python -m store_matrix --place /mnt/nfs                  # yours: what needs no control of the disk

Exit status 1 if a cell is half, wrong or hangs. File systems are made on loop devices in a mount namespace of the
program's own, and are gone with it; missing mkfs programs come from Debian packages, unpacked into the cache. Your
directory gets a folder for the time, and nothing stays in it.
"""

_BUCKET = "bucket (versitygw)"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m store_matrix", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--place", type=Path, help="only this directory")
    parser.add_argument("--only", action="append", help="only places whose names hold this text; repeatable")
    parser.add_argument("--fault", action="append", help="only faults whose names hold this text; repeatable")
    parser.add_argument("--points", type=int, default=4, help="of a publication at which a fault strikes (default 4)")
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        fail(ToolError("this mounts file systems: run it as root"))
    if arguments.points < 2:
        parser.error("--points: at least 2, the first and the last")
    if arguments.inside is None:
        return _outside()
    try:
        return _inside(arguments)
    except KeyboardInterrupt:
        return 130


def _outside() -> int:
    """The same program in namespaces of its own: however it ends, mounts, devices and processes end with it."""
    top = Path(tempfile.mkdtemp(prefix="vernal-store-matrix-"))
    kept = kernel.Thawer.start(top)
    command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-m", "store_matrix", *sys.argv[1:], "--inside", str(top)]
    process = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509  # no thread yet
    signal.signal(signal.SIGTERM, lambda *_: process.kill())
    while True:
        try:
            code = process.wait()
            kept.close()
            return code
        except KeyboardInterrupt:
            continue  # the terminal has told it, too


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _inside(arguments: argparse.Namespace) -> int:
    top = arguments.inside
    thawer = kernel.Thawer(top)
    for place in (top, "/dev/shm"):  # libfaketime leaves files there
        subprocess.run(["mount", "-t", "tmpfs", "vernal-store-matrix", place], check=True)
    every: dict[str, Callable[[], places.Place]] = {
        "ext4": lambda: places.Disk(top / "ext4", "ext4", thawer),
        "xfs": lambda: places.Disk(top / "xfs", "xfs", thawer),
        "btrfs": lambda: places.Disk(top / "btrfs", "btrfs", thawer),
        "tmpfs": lambda: places.Tmpfs(top / "tmpfs"),
        "overlayfs": lambda: places.Overlay(top / "overlay", thawer),
        "FUSE": lambda: places.Fuse(top / "fuse"),
    }
    if arguments.place is not None:
        every = {str(arguments.place): lambda: places.Directory(arguments.place)}
    chosen = {name: make for name, make in every.items() if _wanted(name, arguments.only)}
    columns = [name for name in faults.FAULTS if _wanted(name, arguments.fault)]
    effort = faults.Effort(arguments.points)
    rows: dict[str, dict[str, Cell]] = {}
    for name, make in chosen.items():
        rows[name] = row(name, partial(in_place, make, effort), columns)
    if arguments.place is None and _wanted(_BUCKET, arguments.only):
        rows[_BUCKET] = row(_BUCKET, partial(in_bucket, top, effort), columns)
    if arguments.place is None and _wanted("NFS", arguments.only):
        rows["NFS"] = {fault: Cell(not_run=_nfs()) for fault in columns}
    if arguments.markdown:
        arguments.markdown.write_text(table.markdown(columns, rows) + "\n")
    print("\n" + table.listing(columns, rows))
    print("\n" + "\n".join([*table.red(rows), table.summary(rows)]), flush=True)
    return int(bool(table.red(rows)))


def _wanted(name: str, texts: list[str] | None) -> bool:
    return not texts or any(text in name for text in texts)


def _nfs() -> str:
    if any(line.split()[-1] in ("nfs", "nfs4") for line in Path("/proc/filesystems").read_text().splitlines()):
        return "no server of the matrix's own; mount an export and name it with --place"
    return "this kernel has no NFS client"


def row(name: str, run: Callable[[str], Cell], columns: list[str]) -> dict[str, Cell]:
    """A place under every fault. Each finds it new."""
    cells = {}
    for fault in columns:
        began = time.monotonic()
        cells[fault] = run(fault)
        say(f"{name}, {fault}: {cells[fault]} ({duration(time.monotonic() - began)})")
    return cells


def in_place(make: Callable[[], places.Place], effort: faults.Effort, fault: str) -> Cell:
    """One fault in a new place."""
    place = make()
    try:
        place.open()
    except CannotError as error:
        return Cell(not_run=str(error))
    try:
        return Cell(runs=tuple(faults.FAULTS[fault](place, effort)))
    except CannotError as error:
        return Cell(not_run=str(error))
    finally:
        place.close()


def in_bucket(top: Path, effort: faults.Effort, fault: str) -> Cell:
    """One fault of a new server."""
    from store_matrix import bucket  # needs the proxy of the bucket's tests on the path

    try:
        with bucket.Bucket(top / "bucket") as place:
            return Cell(runs=tuple(bucket.STRIKES[fault](place, effort)))
    except CannotError as error:
        return Cell(not_run=str(error))


if __name__ == "__main__":
    sys.exit(main())
