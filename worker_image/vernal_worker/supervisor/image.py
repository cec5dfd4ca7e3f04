"""What software this container has, in a few milliseconds at each start.

The image's build wrote a content address of all of it (`image_id.py`). An image that is built from ours has the same
file, though not the same software; so what such images change is looked at here again.

A process does so from the first moment of a start, with nothing imported yet: so this imports little, and no pathlib.
"""

import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from blake3 import blake3
from vernal_contract import names

if TYPE_CHECKING:
    from pathlib import Path

DPKG_STATUS = "/var/lib/dpkg/status"
_PACKAGE = __file__.rpartition("/supervisor/")[0]
_CONTRACT = names.__file__.rpartition("/")[0]
_PATCHED = frozenset(["compressed_tensors", "llguidance", "tokenizers", "torch", "transformers", "vllm", "xgrammar"])
"""Packages that images patch in place: each of their files counts by size and time (8600 files, 40 to 60 ms of a core).
All packages would be 30 000 files and 170 ms. Of the others it is the versions, and their native libraries by
themselves: CRIU compares those that are mapped."""

_PACKAGES = ("site-packages", "dist-packages")
"""Directories of installed packages. The other ones that Python looks into are its own, of which there is a version,
Vernal's, those of PYTHONPATH, which count by content, and where this program was started, which is not the engine's."""

_CRIU_SECONDS = 5.0

_CACHE = frozenset(["__pycache__"])
_SKIPPED = _CACHE | {"bin", "share", "include"}
"""Nothing is imported from these."""


def fingerprint(
    versions: Callable[[], Mapping[str, str]],
    *,
    seal: "str | Path" = names.PATH_IMAGE_ID,
    dpkg_status: "str | Path" = DPKG_STATUS,
    search_path: Iterable[str] | None = None,
    code: "Iterable[str | Path]" = (_PACKAGE, _CONTRACT),
) -> str:
    """A digest, in hex.

    Args:
        versions: of what the engine runs with; asked last, since one is a program's answer.
        seal: where the build wrote its content address; left out where there is none.
        dpkg_status: dpkg's database; the same.
        search_path: where Python finds modules; None for `sys.path`.
        code: directories of Vernal's code.
    """
    hasher = blake3()
    for path in (seal, dpkg_status):
        try:
            hasher.update(_content(path))
        except OSError:
            hasher.update(b"none")
    for root in code:
        for name in sorted(_sources(str(root))):
            hasher.update(name.encode() + b"\0" + _content(f"{root}/{name}") + b"\0")
    for directory in dict.fromkeys(sys.path if search_path is None else search_path):
        if directory.rstrip("/").rpartition("/")[2] in _PACKAGES:
            for line in _modules(directory):
                hasher.update(f"{directory} {line}\n".encode(errors="surrogateescape"))
    hasher.update(repr(sorted(versions().items())).encode())
    return hasher.hexdigest()


def _content(path: "str | Path") -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _sources(root: str) -> Iterator[str]:
    """Python's files below `root`, by their paths from there."""
    for directory, _, files in os.walk(root):
        below = directory[len(root) + 1 :]
        yield from (f"{below}/{name}" if below else name for name in files if name.endswith(".py"))


def _modules(directory: str) -> Iterator[str]:
    """What can be imported from there. Versions of packages are in the names of their metadata directories."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name in _SKIPPED or entry.name.endswith(".pyc"):
            continue
        if entry.is_dir():
            yield entry.name
            if entry.name in _PATCHED:
                yield from _every(entry.path)
        elif entry.name.endswith(".pth"):
            yield f"{entry.name} {_content(entry.path)!r}"
        else:
            yield _size_and_time(entry)


def _every(package: str) -> Iterator[str]:
    """Each directory, and each file in it with its size and time."""
    pending = [package]
    while pending:
        directory = pending.pop()
        skipped = _SKIPPED if directory == package else _CACHE
        found: list[str] = []
        with os.scandir(directory) as listing:
            for entry in listing:
                name = entry.name
                if entry.is_dir(follow_symlinks=False):
                    if name not in skipped:
                        pending.append(f"{directory}/{name}")
                elif not name.endswith(".pyc"):
                    info = entry.stat(follow_symlinks=False)
                    found.append(f"{name} {info[stat.ST_SIZE]} {info[stat.ST_MTIME]}")
        yield directory
        yield from sorted(found)


def _size_and_time(entry: "os.DirEntry[str]") -> str:
    """Layers of images keep whole seconds."""
    info = entry.stat(follow_symlinks=False)
    return f"{entry.path} {info.st_size} {int(info.st_mtime)}"


def installed_versions(distributions: Iterable[str], search_path: Iterable[str]) -> dict[str, str]:
    """Versions of installed distributions, from the names of their metadata directories.

    importlib.metadata does the same and takes longer to import than everything else here together.
    """
    pattern = re.compile(rf"({'|'.join(map(re.escape, distributions))})-([^-]+)\.dist-info")
    found: dict[str, str] = {}
    for directory in search_path:
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            if match := pattern.fullmatch(entry.name):
                found.setdefault(match[1], match[2])
    return found


def ask_criu(criu: str) -> Callable[[], str]:
    """Ask CRIU for its version. Returns what waits for the answer, once: like "4.2.1", or "" where there is no CRIU."""
    import subprocess  # here: it is only asked beside a start

    try:
        process = subprocess.Popen([criu, "--version"], stdout=subprocess.PIPE, text=True)
    except OSError:
        return str

    def answer() -> str:
        with process:
            try:
                output, _ = process.communicate(timeout=_CRIU_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                return ""
        match = re.search(r"Version: (\S+)", output) if process.returncode == 0 else None
        return match[1] if match else ""

    return answer
