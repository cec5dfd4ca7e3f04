"""The columns: what goes wrong with a file system, and with who works on it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patience import until

from store_matrix import content, programs
from store_matrix.children import Child, DiedError, HangError, run
from store_matrix.errors import BusyError, CannotError
from store_matrix.judging import judge, leftovers, unsound
from store_matrix.places import Place
from store_matrix.table import PUBLISHED, REFUSED, Run

SHORT = 2.0
"""Where a place hangs for ever: what each of the code's time-outs is set to (seconds)."""

YEAR = 365 * 86400


@dataclass(frozen=True)
class Effort:
    """At how many points of a publication a fault strikes."""

    points: int

    def of(self, steps: int) -> list[int]:
        """Numbers of calls, the first and the last among them."""
        if steps <= self.points:
            return list(range(1, steps + 1))
        return sorted({1 + (steps - 1) * at // (self.points - 1) for at in range(self.points)})


Fault = Callable[[Place, Effort], Iterator[Run]]


def steps(place: Place, **arguments: Any) -> int:
    """How many calls a publication makes here."""
    return int(run("create", str(place.fresh()), **arguments)["steps"])


def nothing(place: Place, effort: Effort) -> Iterator[Run]:
    """No fault; and once more, in the place of an artifact that is there."""
    root = place.fresh()
    created = run("create", str(root))
    if created["outcome"] != "published":
        raise CannotError(f"no store can be here: {created}")
    yield judge(root, created, "the first")
    root = place.fresh()
    first = run("create", str(root))
    second = run("create", str(root), number=2, renew=first["generation"])
    yield judge(root, second, "a replacement", generations=(first["generation"],))


def full(place: Place, effort: Effort) -> Iterator[Run]:
    """The last byte is taken while a creator works; then room comes back."""
    for point in effort.of(steps(place)):
        root = place.fresh()
        with Child("create", str(root), hold=[point]) as creator:
            at = creator.stop()
            place.fill()
            try:
                created, while_full = _go_on(creator), run("read", str(root))
            finally:
                place.empty()
        yield _worst(while_full, at) or judge(root, created, at)


def read_only(place: Place, effort: Effort) -> Iterator[Run]:
    """From the start, empty and with an artifact in it, which is read."""
    for there in (False, True):
        root = place.fresh()
        first = run("create", str(root)) if there else {}
        place.read_only(True)
        try:
            created = run("create", str(root), number=2, renew=first.get("generation", ""))
            found = run("read", str(root))
        finally:
            place.read_only(False)
        at = "with an artifact in it" if there else "empty"
        if there and found["state"] != "whole":
            yield Run("lost", str(found), at)
        yield judge(root, created, at, generations=(first.get("generation", ""),))


def turns_read_only(place: Place, effort: Effort) -> Iterator[Run]:
    """In the middle. Without the lease, whose open file would keep the kernel from it."""
    count = steps(place, lease=False)
    for point in effort.of(count):
        root = place.fresh()
        with Child("create", str(root), hold=range(point, count + 1), lease=False) as creator:
            at = creator.stop()
            while not _turned(place) and not creator.ended:  # a file was open just then
                creator.go()
                at = creator.stop()
            try:
                created, meanwhile = _go_on(creator), run("read", str(root))
            finally:
                place.read_only(False)
        yield _worst(meanwhile, at) or judge(root, created, at)


def _turned(place: Place) -> bool:
    try:
        place.read_only(True)
    except BusyError:
        return False
    return True


def hangs_for_a_while(place: Place, effort: Effort) -> Iterator[Run]:
    """No time-out strikes: it goes on when the place answers again."""
    for point in effort.of(steps(place)):
        root = place.fresh()
        with Child("create", str(root), hold=[point]) as creator:
            at = creator.stop()
            place.hang()
            try:
                creator.go()
                until("the creator to wait", lambda: place.hung(creator) or creator.ready())
            finally:
                place.answer()
            created = _go_on(creator)
        yield judge(root, created, at)


def hangs_for_ever(place: Place, effort: Effort) -> Iterator[Run]:
    """The place does not answer before creator and reader have given up; what they left behind then goes on."""
    for point in effort.of(steps(place)):
        root = place.fresh()
        with (
            Child("create", str(root), hold=[point], patience=SHORT, moving=SHORT) as creator,
            Child("read", str(root), hold=[1], patience=SHORT) as reader,
        ):
            at = creator.stop()
            reader.stop()
            place.hang()
            try:
                created, found = _hear(creator), _hear(reader)
            finally:
                place.answer()
            for child in (creator, reader):
                if child.ended:
                    child.settled()
        if "hangs" in (created.get("outcome"), found.get("state")):
            yield Run("hangs", f"creator {created}, reader {found}", at)
        else:
            yield _worst(found, at) or judge(root, created, at)


def killed(place: Place, effort: Effort) -> Iterator[Run]:
    """kill -9 of the creator before each of its calls, then the place is mounted anew."""
    roots = []
    for point in effort.of(steps(place)):
        root = place.fresh()
        with Child("create", str(root), die=point) as creator, suppress(DiedError):
            creator.answer()
        roots.append((root, f"before call {point}"))
    with suppress(CannotError):
        place.remount()
    for root, at in roots:
        yield judge(root, None, at)


def power_cut(place: Place, effort: Effort) -> Iterator[Run]:
    """What the disk holds at each call of a creator, and after the last, mounted anew: the first artifact, and one in
    the place of another."""
    for replaces in (False, True):
        root = place.fresh()
        before = run("create", str(root))["generation"] if replaces else ""
        arguments: dict[str, Any] = {"number": 2, "renew": before} if replaces else {}
        count = steps(place) if not replaces else steps(place) + 5
        images: list[tuple[int, str, dict[str, Any] | None]] = []
        with Child("create", str(root), hold=effort.of(count), **arguments) as creator:
            while not creator.ended:
                at = f"{'a replacement' if replaces else 'the first'}, {creator.stop()}"
                images.append((place.snapshot(), at, creator.answer() if creator.ended else None))
                creator.go()
            creator.settled()
        with place.unmounted():
            for image, at, created in images:
                with place.from_snapshot(image):
                    if replaces:
                        found = run("read", str(root))
                        if found["state"] != "whole":
                            yield Run("lost", str(found), at)
                            continue
                    if root.exists():
                        yield judge(root, created, at, generations=(before,))
                    else:  # the directory itself had not reached the disk
                        yield Run(REFUSED, "NoArtifact", at)


def device_is_lost(place: Place, effort: Effort) -> Iterator[Run]:
    """Every call fails from some point on, and nothing of what was not synced is kept; then it is back."""
    for point in effort.of(steps(place)):
        root = place.fresh()
        _sync(root.parent)
        with Child("create", str(root), hold=[point]) as creator:
            at = creator.stop()
            place.lose()
            created = _go_on(creator)
            found = run("read", str(root))
        place.remount()
        yield _worst(found, at) or judge(root, created, at)


def fsync_fails(place: Place, effort: Effort) -> Iterator[Run]:
    """EIO at every fsync(2) from some point on; and for a creator that has none left, none."""
    for point in effort.of(steps(place)):
        root = place.fresh()
        with Child("create", str(root), hold=[point]) as creator:
            at = creator.stop()
            place.fail(["fsync"])
            try:
                created = _go_on(creator)
            finally:
                place.fail([])
        yield judge(root, created, at)


def read_fails(place: Place, effort: Effort) -> Iterator[Run]:
    """EIO at every read(2): of a creator, which reads to hash, and of a reader."""
    root = place.fresh()
    place.remount()  # what was written is not read from the page cache
    place.fail(["read"])
    try:
        created = run("create", str(root))
    finally:
        place.fail([])
    yield judge(root, created, "a creator's")
    root = place.fresh()
    created = run("create", str(root))
    place.remount()
    place.fail(["read"])
    try:
        found = run("read", str(root))
    finally:
        place.fail([])
    if found["state"] != "none":
        yield Run("wrong", "what cannot be read was read", "a reader's")
    yield _worst(found, "a reader's", damaged=True) or Run(REFUSED, str(found["reason"]), "a reader's")
    yield judge(root, created, "a reader's, afterwards")


def flipped_bit(place: Place, effort: Effort) -> Iterator[Run]:
    """One bit of each file, on the disk itself where there is one: a file system that sums its blocks says so."""
    for name in [*content.files(1), "manifest.json", "the blob"]:
        root = place.fresh()
        created = run("create", str(root))
        file = _find(root, name)
        if not (data := file.read_bytes()):
            continue
        at = f"in {name}"
        _sync(file)
        try:
            disk = place.disk()
        except CannotError:
            _flip(file, len(data) // 2)
        else:
            found = False
            try:
                with place.unmounted():
                    found = _flip_on_disk(disk, data)
            except CannotError:
                place.reformat()
                yield Run(REFUSED, "it does not mount", at)
                continue
            if not found:
                yield Run("broken", f"{name} was not found on the disk", at)
                continue
        yield judge(root, created, at, damaged=True)


def truncated(place: Place, effort: Effort) -> Iterator[Run]:
    """Each file has half of its bytes, or none, or is not there."""
    for name in [*content.files(1), "manifest.json"]:
        for what in ("half", "nothing", "no file"):
            root = place.fresh()
            created = run("create", str(root))
            file = _find(root, name)
            if what == "no file":
                file.unlink()
            elif not (size := file.stat().st_size):
                continue
            else:
                os.truncate(file, size // 2 if what == "half" else 0)
            yield judge(root, created, f"{what} of {name}", damaged=True)


def two_creators(place: Place, effort: Effort) -> Iterator[Run]:
    """The second publishes while the first stands still somewhere: with the lease, and (it goes from who is silent to
    another) without."""
    for lease in (True, False):
        for point in effort.of(steps(place, lease=lease)):
            root = place.fresh()
            with Child("create", str(root), hold=[point], lease=lease) as first:
                at = f"{'with' if lease else 'without'} the lease, the first {first.stop()}"
                second = run("create", str(root), number=2, lease=lease)
                created = _go_on(first)
            if "published" not in (created["outcome"], second["outcome"]):
                yield Run("lost", f"{created}, {second}", at)
            else:
                yield judge(root, {"outcome": "published"}, at)


def collector_beside_reader(place: Place, effort: Effort) -> Iterator[Run]:
    """The janitor removes the artifact while a reader stands still somewhere, and again when it is done."""
    root = place.fresh()
    run("create", str(root))
    for point in effort.of(int(run("read", str(root))["steps"])):
        root = place.fresh()
        run("create", str(root))
        with Child("read", str(root), hold=[point]) as reader:
            at = f"the reader {reader.stop()}"
            run("remove", str(root))
            found = _go_on(reader)
        run("remove", str(root))
        if word := unsound(found):
            yield Run(word, str(found), at)
        elif left := leftovers(root):
            yield Run("leftover", ", ".join(left), at)
        else:
            yield Run(PUBLISHED, point=at) if found["state"] == "whole" else Run(REFUSED, str(found["reason"]), at)


def clock_is_off(place: Place, effort: Effort) -> Iterator[Run]:
    """Creator, reader and collector have clocks a year apart, and the storage another where it can: nothing that is in
    use goes."""
    past, future = programs.clock(-YEAR), programs.clock(YEAR)
    shifts: Sequence[int] = [0]
    with suppress(CannotError):
        place.shift(0)
        shifts = [0, -YEAR, YEAR]
    for shift in shifts:
        if shift:
            place.shift(shift)
        try:
            for point in effort.of(steps(place)):
                root = place.fresh()
                with Child("create", str(root), hold=[point], environment=past) as creator:
                    at = f"{creator.stop()}, the storage's clock off by {shift // 86400} days"
                    run("collect", str(root), environment=future)
                    created = _go_on(creator)
                run("collect", str(root), environment=future)
                found = run("read", str(root), environment=future)
                if created["outcome"] != "published" or found["state"] != "whole":
                    yield Run("deleted", f"creator {created}, reader {found}", at)
                else:
                    yield judge(root, created, at)
        finally:
            if shift:
                place.shift(0)


FAULTS: dict[str, Fault] = {
    "none": nothing,
    "full": full,
    "read-only": read_only,
    "turns read-only": turns_read_only,
    "hangs for a while": hangs_for_a_while,
    "hangs for ever": hangs_for_ever,
    "creator killed": killed,
    "power cut": power_cut,
    "device lost": device_is_lost,
    "EIO at fsync": fsync_fails,
    "EIO at read": read_fails,
    "bit flipped": flipped_bit,
    "truncated": truncated,
    "two creators": two_creators,
    "collector beside reader": collector_beside_reader,
    "clock off": clock_is_off,
}


def _go_on(child: Child) -> dict[str, Any]:
    created = _hear(child)
    if created.get("outcome") != "hangs":
        child.settled()
    return created


def _hear(child: Child) -> dict[str, Any]:
    try:
        return child.answer()
    except HangError:
        return {"outcome": "hangs", "state": "hangs"}


def _worst(found: dict[str, Any], at: str, damaged: bool = False) -> Run | None:
    """What a reader saw while the fault was there, if it must not have."""
    word = "hangs" if found["state"] == "hangs" else unsound(found, damaged)
    return Run(word, str(found), at) if word else None


def _find(root: Path, name: str) -> Path:
    pattern = "blobs/*" if name == "the blob" else f"artifacts/*/*/*/{name}"
    (file,) = [path for path in root.glob(pattern) if "current" not in path.parts]
    return file


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte[0] ^ 1]))


def _flip_on_disk(disk: int, data: bytes) -> bool:
    """One bit in every copy of the file's beginning: a log may have another than the one that counts."""
    begin = data[:48]
    found: set[int] = set()
    end = 0
    with suppress(OSError):  # ENXIO: no more data
        while True:
            start = os.lseek(disk, end, os.SEEK_DATA)
            end = os.lseek(disk, start, os.SEEK_HOLE)
            held = os.pread(disk, end - start, start)
            where = held.find(begin)
            while where >= 0:
                found.add(start + where)
                where = held.find(begin, where + 1)
    for where in found:
        middle = where + len(begin) // 2
        os.pwrite(disk, bytes([os.pread(disk, 1, middle)[0] ^ 1]), middle)
    return bool(found)
