"""Where a store can be: file systems of this machine, made for the matrix and gone with its mount namespace."""

import errno
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from common.cache import cache_dir
from patience import until

from store_matrix import kernel, programs
from store_matrix.children import Child
from store_matrix.errors import BusyError, CannotError
from store_matrix.fault_words import CHANGES

MIB = 1 << 20


class Place:
    """A directory for stores. What a place cannot do raises `CannotError`."""

    name = ""

    def __init__(self, top: Path) -> None:
        self.top = top
        """Where it is mounted."""
        self._numbers = itertools.count(1)

    def fresh(self) -> Path:
        """An empty directory for a store."""
        root = self.top / f"store-{next(self._numbers)}"
        root.mkdir()
        return root

    def open(self) -> None:
        """Make and mount it."""

    def close(self) -> None:
        """Unmount it."""

    def remount(self) -> None:
        """Take it away from the kernel's caches and mount it again."""
        raise CannotError("it is not the matrix's to mount again")

    def fill(self) -> None:
        """No byte more fits in."""
        raise CannotError("its size is not the matrix's")

    def empty(self) -> None:
        """What `fill` wrote is gone."""

    def read_only(self, on: bool) -> None:
        raise CannotError("it is not the matrix's to mount read-only")

    def hang(self) -> None:
        """Whoever writes there waits until `answer`."""
        raise CannotError("it is not the matrix's to freeze")

    def answer(self) -> None: ...

    def hung(self, child: Child) -> bool:
        """Whether a call of `child` waits for `answer`."""
        return child.waits()

    def lose(self) -> None:
        """Every call fails from now on, and nothing more reaches the disk, until `remount`."""
        raise CannotError("the device below is not the matrix's")

    def fail(self, operations: Sequence[str]) -> None:
        """These operations end with EIO, until they are `[]`."""
        raise CannotError("only a FUSE file system of the matrix fails by the call")

    def snapshot(self) -> int:
        """What the disk holds at this moment, as after a power cut: a file of its own."""
        raise CannotError("the device below is not the matrix's")

    def disk(self) -> int:
        """The disk as a file, to be changed while it is not mounted (`unmounted`)."""
        raise CannotError("the device below is not the matrix's")

    def reformat(self) -> None:
        """What is on the disk cannot be mounted any more: begin anew."""

    @contextmanager
    def unmounted(self) -> Iterator[None]:
        yield

    @contextmanager
    def from_snapshot(self, image: int) -> Iterator[None]:
        """Mount a snapshot in this place's stead. To be used while it is `unmounted`."""
        yield

    def shift(self, seconds: int) -> None:
        """The storage's clock is off by so much."""
        raise CannotError("one kernel has one clock")


class Directory(Place):
    """Somebody's own: only what needs no control of the device."""

    def __init__(self, path: Path) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="vernal-store-matrix-", dir=path)))
        self.name = str(path)

    def close(self) -> None:
        subprocess.run(["rm", "-rf", self.top], check=True)


class _Mounted(Place):
    """One that is mounted by the matrix and can be full or read-only."""

    def mount(self) -> None: ...

    def open(self) -> None:
        self.top.mkdir(exist_ok=True)
        self.mount()

    def close(self) -> None:
        if self.top.is_mount():
            _umount(self.top)

    @property
    def ballast(self) -> Path:
        """A directory on the file system that fills up."""
        return self.top

    def fill(self) -> None:
        with (self.ballast / "ballast").open("wb", buffering=0) as file:
            size, at = 64 * MIB, 0
            while size >= 512:
                try:
                    os.posix_fallocate(file.fileno(), at, size)
                    at += size
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
            # What a file system keeps back from big files goes to small ones.
            with suppress(OSError):
                for number in itertools.count():
                    (self.ballast / f"ballast-{number}").write_bytes(b"x" * 4096)

    def empty(self) -> None:
        for file in self.ballast.glob("ballast*"):
            file.unlink()

    def read_only(self, on: bool) -> None:
        _run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", self.top])


class Tmpfs(_Mounted):
    name = "tmpfs"

    def mount(self) -> None:
        _run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", self.top])

    def hang(self) -> None:
        raise CannotError("a tmpfs cannot be frozen")

    def remount(self) -> None:
        raise CannotError("a tmpfs is gone with its mount")

    def lose(self) -> None:
        raise CannotError("a tmpfs has no device")

    def snapshot(self) -> int:
        raise CannotError("a power cut leaves nothing of a tmpfs")


class Disk(_Mounted):
    """A file system of a kind on a loop device, over a file without a name in the cache."""

    SIZES: ClassVar = {"ext4": 32, "xfs": 300, "btrfs": 128}  # MiB; the smallest that xfs and btrfs take is about that
    MKFS: ClassVar = {"ext4": ["-q", "-F"], "xfs": ["-q", "-f"], "btrfs": ["-q", "-f"]}
    # What was not synced stays off the disk for as long as it may: a power cut then shows it.
    OPTIONS: ClassVar = {"ext4": "noatime,commit=300", "xfs": "noatime,nouuid", "btrfs": "noatime,commit=300"}

    def __init__(self, top: Path, kind: str, thawer: kernel.Thawer) -> None:
        super().__init__(top)
        self.name, self._kind, self._thawer = kind, kind, thawer
        self._image = -1

    def open(self) -> None:
        programs.mkfs(self._kind)
        self._image = _nameless()
        self._format()
        super().open()

    def _format(self) -> None:
        program, variables = programs.mkfs(self._kind)
        os.truncate(self._image, 0)
        os.truncate(self._image, self.SIZES[self._kind] * MIB)
        with kernel.loop_device(self._image) as device:
            _run([program, *self.MKFS[self._kind], device], variables)

    def reformat(self) -> None:
        self._format()
        self.mount()

    def mount(self) -> None:
        self._mount(self._image)

    def _mount(self, image: int) -> None:
        with kernel.loop_device(image) as device:
            _run(["mount", "-t", self._kind, "-o", self.OPTIONS[self._kind], device, self.top])

    def close(self) -> None:
        super().close()
        os.close(self._image)

    def remount(self) -> None:
        _umount(self.top)
        self.mount()

    def hang(self) -> None:
        self._thawer.freeze(self.top)

    def answer(self) -> None:
        self._thawer.thaw(self.top)

    def lose(self) -> None:
        if self._kind == "btrfs":
            raise CannotError("this kernel cannot shut a btrfs down")
        kernel.shut_down(self.top)

    def snapshot(self) -> int:
        copy, size = _nameless(), os.fstat(self._image).st_size
        os.truncate(copy, size)
        end = 0
        with suppress(OSError):  # ENXIO: no more data
            while True:
                start = os.lseek(self._image, end, os.SEEK_DATA)
                end = os.lseek(self._image, start, os.SEEK_HOLE)
                os.lseek(copy, start, os.SEEK_SET)
                while start < end:
                    start += os.sendfile(copy, self._image, start, min(end - start, 64 * MIB))
        return copy

    def disk(self) -> int:
        return self._image

    @contextmanager
    def unmounted(self) -> Iterator[None]:
        _umount(self.top)
        try:
            yield
        finally:
            self.mount()

    @contextmanager
    def from_snapshot(self, image: int) -> Iterator[None]:
        self._mount(image)
        try:
            yield
        finally:
            _umount(self.top)
            os.close(image)


class Overlay(_Mounted):
    """An overlayfs, as a container's own file system is, over an ext4 that can do all that a disk can."""

    name = "overlayfs"

    def __init__(self, top: Path, thawer: kernel.Thawer) -> None:
        super().__init__(top)
        self._upper = Disk(top.with_name("upper"), "ext4", thawer)
        self._lower = top.with_name("lower")

    @property
    def ballast(self) -> Path:
        return self._upper.top

    def open(self) -> None:
        self._lower.mkdir(exist_ok=True)
        self._upper.open()
        super().open()

    def mount(self) -> None:
        for name in ("data", "work"):
            (self._upper.top / name).mkdir(exist_ok=True)
        upper = f"upperdir={self._upper.top}/data,workdir={self._upper.top}/work"
        _run(["mount", "-t", "overlay", "-o", f"lowerdir={self._lower},{upper}", "overlay", self.top])

    def close(self) -> None:
        super().close()
        self._upper.close()

    def remount(self) -> None:
        _umount(self.top)
        self._upper.remount()
        self.mount()

    def hang(self) -> None:
        self._upper.hang()

    def answer(self) -> None:
        self._upper.answer()

    def lose(self) -> None:
        self._upper.lose()

    def reformat(self) -> None:
        self._upper.reformat()
        self.mount()

    def snapshot(self) -> int:
        return self._upper.snapshot()

    def disk(self) -> int:
        return self._upper.disk()

    @contextmanager
    def unmounted(self) -> Iterator[None]:
        _umount(self.top)
        with self._upper.unmounted():
            yield
        self.mount()

    @contextmanager
    def from_snapshot(self, image: int) -> Iterator[None]:
        with self._upper.from_snapshot(image):
            self.mount()
            try:
                yield
            finally:
                _umount(self.top)


class Fuse(_Mounted):
    """Our FUSE file system over a tmpfs: what it does wrong, it does by the call."""

    name = "FUSE"

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self._below = Tmpfs(top.with_name("below"))
        self._control = top.with_name("control")
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def ballast(self) -> Path:
        return self._below.top

    def open(self) -> None:
        self._control.mkdir(exist_ok=True)
        self._below.open()
        super().open()

    def mount(self) -> None:
        self._faults()
        command, variables = programs.fuse_server(self._below.top, self.top, self._control)
        log = self._control / "log"
        with log.open("wb") as output:
            self._server = subprocess.Popen(
                command,
                env={**os.environ, **variables},
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is not its to hear
            )

        def mounted() -> bool:
            assert self._server is not None
            if self._server.poll() is not None:
                raise CannotError(f"the FUSE server ended: {log.read_text().strip().splitlines()[-1:]}")
            return os.path.ismount(self.top)

        until("the FUSE file system to be mounted", mounted, more=log.read_text)

    def close(self) -> None:
        super().close()
        assert self._server is not None
        self._server.wait()
        self._below.close()

    def remount(self) -> None:
        _umount(self.top)
        assert self._server is not None
        self._server.wait()
        self.mount()

    def read_only(self, on: bool) -> None:
        self._faults(erofs=[*CHANGES] if on else [])

    def hang(self) -> None:
        (self._control / "hung").unlink(missing_ok=True)
        self._faults(hang=[*CHANGES, "fsync", "read", "open", "getattr", "readdir"])

    def answer(self) -> None:
        self._faults()

    def hung(self, child: Child) -> bool:
        return (self._control / "hung").exists()

    def lose(self) -> None:
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def fail(self, operations: Sequence[str]) -> None:
        self._faults(eio=[*operations])

    def shift(self, seconds: int) -> None:
        self._faults(clock=seconds)

    def snapshot(self) -> int:
        raise CannotError("a FUSE file system keeps nothing by itself")

    def _faults(self, **faults: object) -> None:
        new = self._control / "new"
        new.write_text(json.dumps(faults))
        new.rename(self._control / "faults.json")


def _nameless() -> int:
    """A file on the disk that is gone when nobody has it open any more."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    return os.open(cache_dir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _umount(place: Path) -> None:
    _run(["umount", place])


def _run(command: Sequence[str | Path], variables: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise (BusyError if "busy" in said else CannotError)(f"`{' '.join(map(str, command))}`: {said}")
