"""Digests of what an engine loads from files and directories: equal exactly where every byte is.

Nothing here depends on where the files are, so equal content on another volume or node has an equal digest. What is
small is read at each start. Of what is big a start reads a few ranges; the digest of all of it is looked up in the
store (`vernal_worker.store.contents`), and made by reading the file where there is none: once for each file on each
file system.
"""

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3

from vernal_worker.parallel import for_each
from vernal_worker.store.contents import Contents, Known
from vernal_worker.store.pieces import default_threads, hash_all, pieces

SMALL = 1 << 20
"""Files up to this size are read whole."""

_HEAD = 64 << 10
_SAMPLE = 4 << 10
_SAMPLES = 8

_SETTLED = 2.0
"""A file that was changed so recently, in seconds, may change again without a change of its times."""

_THREADS = 16
MOUNTINFO = Path("/proc/self/mountinfo")

Tick = Callable[[], None]
"""Called now and then; raises to give up."""


class ContentError(Exception):
    """Something that the engine loads cannot be read; the message names it."""


class SourceError(ContentError):
    """It is not the model, so that the engine may come up without it."""


class Digester:
    """Makes digests. `contents`: None to read every byte."""

    def __init__(self, contents: Contents | None, tick: Tick = lambda: None, mountinfo: Path = MOUNTINFO) -> None:
        self._contents, self._tick = contents, tick
        self._mounts = _mounts(mountinfo.read_text())
        self.read = 0
        """Bytes of big files that had to be read whole."""

    def digest(self, path: Path) -> str:
        """Of a file, or of names and content of all files in a directory. Links are followed. What is hidden is left
        out, because download tools keep their books there, and so is Python's bytecode, which is made from the rest.

        Raises:
            ContentError: it is not there, cannot be read, or changes meanwhile.
        """
        try:
            if path.is_dir():
                listing = sorted(self._listing(path))
                return blake3("".join(f"{name}\0{digest}\n" for name, digest in listing).encode()).hexdigest()
            return self._file(path)
        except OSError as error:
            raise ContentError(f"{error.filename or path}: {error.strerror or error}") from error

    def _listing(self, directory: Path) -> list[tuple[str, str]]:
        files = list(_files(directory))
        found: list[tuple[str, str]] = []

        def look(file: Path) -> None:
            found.append((file.relative_to(directory).as_posix(), self._file(file)))

        for_each(files, look, min(_THREADS, max(1, len(files))), self._tick)
        return found

    def _file(self, path: Path) -> str:
        # Opened first: a network file system then asks the server how old its knowledge is.
        with path.open("rb", buffering=0) as file:
            info = os.fstat(file.fileno())
            if info.st_size <= SMALL:
                data = file.read(SMALL + 1) if info.st_size else b""
                return f"{info.st_size}-{blake3(data).hexdigest()}"
            samples = _samples(file.fileno(), info.st_size)
        key = self._key(path, info)
        known = self._contents.get(key) if self._contents else None
        if known is not None and known.samples == samples:
            return known.content
        began = time.time()
        content = self._whole(path, info.st_size)
        if _times(path.stat()) != _times(info):
            raise ContentError(f"{path} changes while it is read")
        if self._contents and began - max(info.st_mtime, info.st_ctime) > _SETTLED:
            self._contents.put(key, Known(content=content, samples=samples, file=str(path)))
        return content

    def _whole(self, path: Path, size: int) -> str:
        wanted = pieces(path.name, size)
        digests: dict[int, str] = {}
        hash_all(
            path.parent,
            wanted,
            lambda piece, digest: digests.__setitem__(piece.index, digest),
            threads=default_threads(),
            tick=lambda _: self._tick(),
        )
        self.read += size
        return f"{size}-{blake3(' '.join(digests[piece.index] for piece in wanted).encode()).hexdigest()}"

    def _key(self, path: Path, info: os.stat_result) -> str:
        """Where and when. File systems in user space may make inode numbers up at each mount; there the path counts."""
        real = str(path.resolve())
        point, kind, source, root = max(
            (mount for mount in self._mounts if _is_below(real, mount[0])), key=lambda mount: len(mount[0])
        )
        place = f"{root}{real.removeprefix(point)}" if kind.startswith("fuse") else str(info.st_ino)
        return "\0".join((kind, source, place, *map(str, _times(info))))


def _files(directory: Path) -> Iterator[Path]:
    for root, directories, names in os.walk(directory, onerror=_raise, followlinks=True):
        directories[:] = sorted(name for name in directories if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            file = Path(root, name)
            if not name.startswith(".") and not name.endswith(".pyc") and stat.S_ISREG(file.stat().st_mode):
                yield file


def _samples(fd: int, size: int) -> str:
    """The head, where formats of weights say what is in them, the end, and a few ranges between."""
    step = (size - _SAMPLE) // (_SAMPLES - 1)
    hasher = blake3(os.pread(fd, _HEAD, 0))
    for number in range(_SAMPLES):
        hasher.update(os.pread(fd, _SAMPLE, number * step))
    return hasher.hexdigest()


def _times(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _mounts(mountinfo: str) -> list[tuple[str, str, str, str]]:
    """Mount point, kind of file system, source, and root within it (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, source = rest.split()[:2]
        root, point = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), f) for f in fields.split()[3:5])
        found.append((point, kind, source, root))
    return found


def _is_below(path: str, point: str) -> bool:
    return point == "/" or path == point or path.startswith(f"{point}/")


def _raise(error: OSError) -> None:
    raise error
