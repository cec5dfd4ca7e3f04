"""Artifacts for node caches, what a cache has of them, and whoever is killed on the way."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vernal_worker.store import cached, eviction, layout
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.node_cache import BUSY, FORMAT, NodeCache

Make = Callable[..., Artifact]


def take(artifact: Artifact) -> int:
    """The disk that it takes."""
    return sum(eviction.on_disk(entry.size) for entry in artifact.manifest.files)


def used(root: Path) -> int:
    files = {info.st_ino: info.st_size for _, info in cached.stats([root / FORMAT])}
    return sum(map(eviction.on_disk, files.values()))


def content(path: Path, artifact: Artifact) -> dict[str, bytes]:
    return {entry.path: (path / entry.path).read_bytes() for entry in artifact.manifest.files}


def has(cache: NodeCache, artifact: Artifact) -> bool:
    """Whether it is there, and then what it should be."""
    view = cache.look(artifact.manifest)
    if view is None:
        return False
    with view:
        Artifact(view.path, artifact.manifest).verify(threads=1)
        assert content(view.path, artifact) == content(artifact.path, artifact)
    return True


def work(root: Path) -> list[str]:
    return layout.names(root / FORMAT / BUSY)


CALLS = ("open", "os.mkdir", "os.rmdir", "os.scandir", "os.remove", "os.rename", "os.link", "os.chmod", "os.utime")
DONE = 17


class Killed:
    """This process ends by SIGKILL before its `step`-th call in the cache, or call of `count`."""

    def __init__(self, root: Path, step: int) -> None:
        self._root, self._left = str(root), step
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CALLS and arguments and str(arguments[0]).startswith(self._root):
            self.count()

    def count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(work: Callable[[], int]) -> int:
    """Its exit code, or less than 0: the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
