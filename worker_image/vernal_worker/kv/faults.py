"""Faults to inject: which, into which requests, and storage calls that behave so. Nothing here knows vLLM."""

import errno
import os
import random
import threading
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import msgspec
from vernal_contract import decoding

from vernal_worker.kv.blockfile import SUFFIX, Files


class Kind(StrEnum):
    """What storage does. In brackets the `blockfile.Failure` that the connector must make of it."""

    MISSING = "missing"  # gone before the lookup: a miss, no failure
    VANISHED = "vanished"  # gone between lookup and load [missing]
    SHORT = "short"  # [size]
    FLIPPED_BIT = "flipped_bit"  # [corrupt, or format or swapped where the bit is in the header]
    SWAPPED = "swapped"  # the content of another block [swapped]
    UNREADABLE = "unreadable"  # EIO [unreadable]
    PERMISSION = "permission"  # EACCES [permission]
    SLOW = "slow"  # [slow]
    STORE_FULL = "store_full"  # ENOSPC on save: no failure of the request
    SLOW_SAVE = "slow_save"  # no failure of the request either


_POLL_SECONDS = 0.01
_AT_LOOKUP = frozenset({Kind.MISSING})
_AT_SAVE = frozenset({Kind.STORE_FULL, Kind.SLOW_SAVE})
_AT_LOAD = frozenset(Kind) - _AT_LOOKUP - _AT_SAVE


class Which(StrEnum):
    """Which of the requests that look up or load; with faults of saves, which of the blocks."""

    FIRST = "first"
    NTH = "nth"
    RANDOM = "random"
    ALL = "all"


class Where(StrEnum):
    """Which of a request's blocks."""

    FIRST = "first"
    MIDDLE = "middle"
    LAST = "last"
    ALL = "all"


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to inject.

    Attributes:
        n: counted from 1, for `Which.NTH`.
        probability, seed: for `Which.RANDOM`; the seed also says which bit is flipped.
        delay_seconds: of `Kind.SLOW` and `Kind.SLOW_SAVE`.
        hold: a file; those two last as long as it is there instead.
        load_async, load_timeout_seconds: override the connector's settings.
        report: False makes the connector keep its failures to itself, as a broken one would: for a control run, which
            must give wrong answers.
    """

    kind: Kind | None = None
    which: Which = Which.FIRST
    n: int = 1
    probability: float = 0.5
    seed: int = 0
    where: Where = Where.MIDDLE
    delay_seconds: float = 30.0
    hold: str | None = None
    load_async: bool | None = None
    load_timeout_seconds: float | None = None
    report: bool = True


class Faults:
    """Draws from a fault that may change: `file`, if given, is read again for each request.

    Raises (all methods):
        ValueError: the file does not hold a fault.
    """

    def __init__(self, fault: Fault, file: Path | None = None) -> None:
        self._fault = fault
        self._file = file
        self._text = b""
        self._lock = threading.Lock()
        self._start()

    @property
    def fault(self) -> Fault:
        with self._lock:
            self._refresh()
            return self._fault

    def at_lookup(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Called once for each request that looks `keys` up: those of its blocks that are to be missing."""
        return self._choose(keys, _AT_LOOKUP)

    def at_load(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Called once for each request that loads `keys`: those of its blocks that the fault hits."""
        return self._choose(keys, _AT_LOAD)

    def _choose(self, keys: Sequence[bytes], kinds: frozenset[Kind]) -> frozenset[bytes]:
        with self._lock:
            self._refresh()
            if not keys or self._fault.kind not in kinds or not self._hits():
                return frozenset()
            match self._fault.where:
                case Where.FIRST:
                    return frozenset(keys[:1])
                case Where.MIDDLE:
                    return frozenset(keys[len(keys) // 2 :][:1])
                case Where.LAST:
                    return frozenset(keys[-1:])
                case Where.ALL:
                    return frozenset(keys)

    def hits_save(self) -> bool:
        """Called once for each block that is saved."""
        with self._lock:
            self._refresh()
            return self._fault.kind in _AT_SAVE and self._hits()

    def _hits(self) -> bool:
        self._count += 1
        match self._fault.which:
            case Which.FIRST:
                return self._count == 1
            case Which.NTH:
                return self._count == self._fault.n
            case Which.RANDOM:
                return self._random.random() < self._fault.probability
            case Which.ALL:
                return True

    def _refresh(self) -> None:
        if self._file is None:
            return
        text = self._file.read_bytes()
        if text != self._text:
            try:
                self._fault = decoding.json(text, Fault)
            except msgspec.DecodeError as error:
                raise ValueError(f"{self._file}: {error}") from error
            self._text = text
            self._start()

    def _start(self) -> None:
        self._count = 0
        self._random = random.Random(self._fault.seed)  # noqa: S311 (nothing secret)


class FaultyFiles(Files):
    """Storage calls with one fault. Files on disk stay as they are: what differs is what a caller is told."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def read(self, path: str | Path, header: bytearray, payload: memoryview) -> int:
        match self._fault.kind:
            case Kind.VANISHED:
                raise _error(errno.ENOENT, path)
            case Kind.UNREADABLE:
                raise _error(errno.EIO, path)
            case Kind.PERMISSION:
                raise _error(errno.EACCES, path)
            case Kind.SLOW:
                self._be_slow()
            case Kind.SWAPPED:
                path = str(_another(Path(path)))
        size = super().read(path, header, payload)
        if self._fault.kind is Kind.SHORT:
            return self._draw(Path(path), size)
        if self._fault.kind is Kind.FLIPPED_BIT:
            position, bit = divmod(self._draw(Path(path), size * 8), 8)
            part, at = (header, position) if position < len(header) else (payload, position - len(header))
            part[at] ^= 1 << bit
        return size

    def write(self, path: Path, header: bytes, payload: memoryview) -> None:
        if self._fault.kind is Kind.STORE_FULL:
            raise _error(errno.ENOSPC, path)
        if self._fault.kind is Kind.SLOW_SAVE:
            self._be_slow()
        super().write(path, header, payload)

    def _be_slow(self) -> None:
        if self._fault.hold is None:
            time.sleep(self._fault.delay_seconds)
            return
        while Path(self._fault.hold).exists():
            time.sleep(_POLL_SECONDS)

    def _draw(self, path: Path, below: int) -> int:
        return random.Random(f"{self._fault.seed} {path.name}").randrange(below)  # noqa: S311 (nothing secret)


def _another(path: Path) -> Path:
    """Some other block of the same layout."""
    for other in sorted(path.parent.parent.glob(f"*/*{SUFFIX}")):
        if other != path:
            return other
    raise _error(errno.ENOENT, path)


def _error(number: int, path: str | Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
