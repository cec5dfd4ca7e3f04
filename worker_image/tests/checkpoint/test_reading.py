"""What reading an image's files comes to when the storage fails: never the node's or the tree's fault."""

import mmap
import os
import stat
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.reasons import About, Reason, about
from vernal_worker.checkpoint import carry, pids
from vernal_worker.checkpoint import thaw as thawing
from vernal_worker.checkpoint.carry import Carried
from vernal_worker.checkpoint.criu import Patience
from vernal_worker.checkpoint.cuda.transfer import Source
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.memory import fill
from vernal_worker.checkpoint.pagecache import cached
from vernal_worker.checkpoint.process import Frozen
from vernal_worker.checkpoint.taken import PAGE, Memory

NAME = "memory-400.bin"
CONTENT = bytes(range(256)) * (4 * PAGE // 256)


class Target:
    """Memory of this process, to be filled from a file."""

    def __init__(self) -> None:
        from ctypes import addressof, c_char

        self.pages = mmap.mmap(-1, len(CONTENT))
        self.address = addressof(c_char.from_buffer(self.pages))

    def fill(self, directory: Path, address: int | None = None, tick: Callable[[], None] = lambda: None) -> None:
        runs = ((address or self.address, len(CONTENT) // PAGE),)
        fill([Memory(pid=os.getpid(), file=NAME, runs=runs)], directory, None, tick)


def nothing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, PAGE)


def error_of_input(path: Path) -> None:
    """A file whose reading ends in EIO: nothing is mapped at address 0."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


DAMAGE = [
    (nothing, Reason.FILE_MISSING),
    (cut, Reason.FILE_SIZE_MISMATCH),
    (error_of_input, Reason.STORE_UNAVAILABLE),
]


def test_memory_is_filled(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    target = Target()
    target.fill(tmp_path)
    assert target.pages[:] == CONTENT


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_a_file_of_memory_that_cannot_be_read(tmp_path: Path, damage: Callable[[Path], None], reason: Reason) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    damage(tmp_path / NAME)
    with pytest.raises(CheckpointError) as error:
        Target().fill(tmp_path)
    assert (error.value.reason, error.value.stage) == (reason, "memory") and NAME in error.value.message


def test_memory_that_cannot_be_written_is_the_restored_trees(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    with pytest.raises(CheckpointError, match="writing memory") as error:
        Target().fill(tmp_path, address=PAGE)
    assert error.value.reason is Reason.CRIU_RESTORE_FAILED


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_carried_files_that_cannot_be_read(tmp_path: Path, damage: Callable[[Path], None], reason: Reason) -> None:
    data, place = tmp_path / "files.bin", tmp_path / "laid"
    data.write_bytes(CONTENT)
    damage(data)
    size = len(CONTENT)
    entry = Carried(
        path=str(place), mode=stat.S_IFREG | 0o600, uid=os.getuid(), gid=os.getgid(), mtime_ns=0, size=size,
        extents=((0, size),),
    )  # fmt: skip
    with pytest.raises(CheckpointError) as error:
        carry.lay([entry], data, lambda: None)
    assert (error.value.reason, error.value.stage) == (reason, "files")


def test_storage_that_hangs_is_slow_and_nothing_else(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)  # nobody writes to it: opening it waits
    patience = Patience(0.2, None, Reason.THAW_TIMEOUT, Reason.THAW_GIVEN_UP)
    with pytest.raises(CheckpointError) as error:
        patience.read("memory", lambda: Target().fill(tmp_path, tick=patience.check))
    assert (error.value.reason, error.value.stage) == (Reason.STORE_SLOW, "memory")
    assert about(error.value.reason) is About.STORAGE, "no artifact is retired for it"
    os.close(os.open(tmp_path / NAME, os.O_RDWR | os.O_NONBLOCK))  # whoever waits gets an empty file


def test_a_file_that_is_laid_after_giving_up_is_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that lays files notices only when it comes to the next one."""
    roots, remove = tmp_path / "shm", carry.remove
    cancel, cleaned, laid = threading.Event(), threading.Event(), threading.Event()
    roots.mkdir()

    def lay(_: object, __: object, tick: Callable[[], None]) -> None:
        cancel.set()
        cleaned.wait(0.2)  # which is not done before this has ended
        (roots / "late").touch()
        laid.set()
        tick()

    def clean(paths: Iterable[Path]) -> None:
        remove(paths)
        cleaned.set()

    monkeypatch.setattr(carry, "lay", lay)
    monkeypatch.setattr(carry, "remove", clean)
    monkeypatch.setattr(thawing, "_LAID_SECONDS", GUARD_SECONDS)
    monkeypatch.setattr(pids, "keep_helpers_below", lambda lowest: None)
    frozen = Frozen(root=400, pids=(), ids=(1 << 22,), stdout="", stderr="", roots=(str(roots),), files=())
    with pytest.raises(CheckpointError) as error:
        thawing.thaw(tmp_path, frozen, criu="true", timeout=GUARD_SECONDS, work_dir=tmp_path / "work", cancel=cancel)
    assert error.value.reason is Reason.THAW_GIVEN_UP
    assert laid.wait(GUARD_SECONDS)
    assert list(roots.iterdir()) == []


def test_weights_are_in_memory_for_the_next_thaw(tmp_path: Path) -> None:
    """What is read past the page cache is read from the storage each time."""
    path, size = tmp_path / "rank-0-0.bin", 16 << 20
    path.write_bytes(os.urandom(size))

    def there(fd: int) -> list[bool | None]:
        return [cached(fd, at) for at in range(0, size, PAGE)]

    with path.open("rb") as file:
        fd = file.fileno()
        os.fsync(fd)

        def forgotten() -> bool:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return cached(fd, size // 2) is False  # one look: it has the kernel read what is not there

        if cached(fd, 0) is None:
            pytest.skip("this file system does not tell what is in memory")
        until("the kernel to forget the file", forgotten)
        source = Source([path])
        source.expect(0, size)
        _, own, at = source.place(0)
        block = mmap.mmap(-1, size)
        assert os.preadv(own, [block], at) == size
        source.close()
        assert there(fd) == [True] * (size // PAGE)
