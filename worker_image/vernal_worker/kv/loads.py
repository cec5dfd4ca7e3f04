"""What is known of loads under way: their blocks, their clocks, how they ended, and how fast they are. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vernal_worker.kv.blockfile import DIGEST_BYTES, Failure

_PARTS = 8  # of a load: each has the time-out to itself
_ROUNDS = 2  # that are left of a load when runs get shorter
_SAMPLE_BLOCKS = 64  # fewer, and sooner than
_SAMPLE_SECONDS = 1.0  # this, say more about one answer of storage than about how much it can do


class Block(NamedTuple):
    """A block in the store (`key`) and its place in the engine's KV cache (`block_id`)."""

    key: bytes
    block_id: int


class Move(NamedTuple):
    """A verified block on its way from a slot to the KV cache, or a block to save on its way back."""

    slot: int
    block_id: int


class Run(NamedTuple):
    """Blocks on their way from adjacent slots to the KV cache: `length` of a load, from `first` on.

    `target` is what `CopyStream.prepare` made of the load's blocks.
    """

    target: Any
    first: int
    slot: int
    length: int


class Read(NamedTuple):
    """Blocks in slots. They have the `digests`, one after the other, if they are what they should be; they are, where
    there are none."""

    load: "Load"
    first: int
    slot: int
    length: int
    digests: bytes

    @property
    def slots(self) -> range:
        return range(self.slot, self.slot + self.length)

    def differing(self, found: bytes) -> list[int]:
        """Indices of blocks whose digests, of which `found` are all, are others than they should be."""
        size = DIGEST_BYTES
        if found == self.digests:
            return []
        return [
            self.first + at
            for at in range(self.length)
            if found[at * size : (at + 1) * size] != self.digests[at * size : (at + 1) * size]
        ]


@dataclass(frozen=True)
class Loaded:
    """The end of a load.

    Attributes:
        usable: how many blocks were loaded before the first that was not.
        failures: why, for each block that was not loaded, by block id.
        hung: storage answered nobody meanwhile.
    """

    request_id: str
    usable: int
    failures: dict[int, Failure]
    hung: bool = False


@dataclass(eq=False)
class Load:
    """One load. Its clock runs while one of its reads is with storage, and begins anew with each part that arrives.

    Attributes:
        timeout: seconds that storage has for each part.
        pending: indices of blocks that neither arrived nor failed.
        next: index of the first block that was not given out.
        again: indices of those that arrived with other bytes than they should have, and are to be read again.
        target: what the device needs to know of its blocks; the stream's.
    """

    request_id: str
    blocks: Sequence[Block]
    timeout: float
    started: float
    pending: set[int] = field(init=False)
    failures: dict[int, Failure] = field(default_factory=dict)  # by index
    first_failure: int | None = None
    over: bool = False
    message: str = ""  # of a failure
    next: int = 0
    again: list[int] = field(default_factory=list)
    target: Any = None
    reading: int = 0  # jobs that are with storage
    waited: float = 0.0  # seconds for them, since a part arrived, up to `counted`
    counted: float = 0.0
    arrived: int = 0  # blocks since then

    def __post_init__(self) -> None:
        self.pending = set(range(len(self.blocks)))

    def run(self, most: int, hands: int) -> int:
        """How many blocks to give out next, `most` at most, where `hands` work: a small part of what is left, so that
        all end together."""
        if self.again:
            return 1
        return max(1, min(most, (len(self.blocks) - self.next) // (_ROUNDS * hands)))

    @property
    def first(self) -> int:
        """Index of the block that is given out next."""
        return self.again[0] if self.again else self.next

    def wanted(self) -> bool:
        """Whether there are blocks to give out."""
        return bool(self.again) or (self.next < len(self.blocks) and not self.useless(self.next))

    def take(self, count: int) -> range:
        """Indices of the next blocks, `count` at most."""
        if self.again:
            first = self.again.pop(0)
            return range(first, first + 1)
        taken = range(self.next, min(self.next + count, len(self.blocks)))
        self.next = taken.stop
        return taken

    def begin_read(self, now: float) -> None:
        """Storage has one more job."""
        if self.reading == 0:
            self.counted = now
        self.reading += 1

    def end_read(self, now: float) -> None:
        """And one less."""
        self._count(now)
        self.reading -= 1

    def read(self, now: float, blocks: int) -> None:
        """So many more blocks were read."""
        self._count(now)
        self.arrived += blocks
        if self.arrived >= max(1, len(self.blocks) // _PARTS):
            self.arrived, self.waited = 0, 0.0

    def _count(self, now: float) -> None:
        if self.reading > 0:
            self.waited += now - self.counted
        self.counted = now

    def overdue(self, now: float) -> bool:
        return self.reading > 0 and self.waited + now - self.counted >= self.timeout

    def useless(self, index: int) -> bool:
        """A block behind a failed one will be computed anyway: the engine wants an unbroken prefix."""
        return self.over or (self.first_failure is not None and index > self.first_failure)

    def fail(self, index: int, failure: Failure) -> None:
        self.failures[index] = failure
        if self.first_failure is None or index < self.first_failure:
            self.first_failure = index

    def complete(self) -> bool:
        return not self.pending or (self.first_failure is not None and min(self.pending) > self.first_failure)

    def end(self) -> None:
        """What is pending is not loaded: it came too late, or behind a failed block."""
        rest = Failure.SKIPPED if self.complete() else Failure.SLOW
        self.over = True
        self.again.clear()
        for index in sorted(self.pending):
            self.fail(index, rest)

    def result(self, hung: bool) -> Loaded:
        return Loaded(
            self.request_id,
            len(self.blocks) if self.first_failure is None else self.first_failure,
            {self.blocks[index].block_id: failure for index, failure in sorted(self.failures.items())},
            hung,
        )


class Speed:
    """How many blocks a second arrive, where enough did to tell."""

    def __init__(self) -> None:
        self._since = 0.0
        self._blocks = 0
        self._best: float | None = None

    def begin(self, now: float) -> None:
        """Nothing was under way until `now`."""
        self._since, self._blocks = now, 0

    def add(self, blocks: int) -> None:
        self._blocks += blocks

    def end(self, now: float) -> None:
        """A load is over."""
        seconds = now - self._since
        if self._blocks >= _SAMPLE_BLOCKS or seconds >= _SAMPLE_SECONDS:
            if self._blocks and seconds > 0:
                self._best = max(self._best or 0.0, self._blocks / seconds)
            self.begin(now)

    def take(self) -> float | None:
        """The best since the last call."""
        best, self._best = self._best, None
        return best
