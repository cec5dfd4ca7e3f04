"""Loading: others read blocks into slots (`vernal_worker.kv.crew`), from where they are copied into the KV cache.

Who reads a block hashes it too, unless the device does (`CopyStream.hashes`), which costs no core. Then a block is in
the KV cache before it is known to be the right one. Nobody looks at it there before its load is over, and a load is not
over before the digests of all its blocks are compared.

One thread gives out jobs, runs of blocks in adjacent slots, and takes all answers that are there at once. Where the
device has a stream for it (`CopyStream`), that thread enqueues one copy for all of them, if their load is not over;
elsewhere the engine's own thread copies. Either way a read that comes back after its load was given up finds nobody who
would copy it, so it cannot write into a block that meanwhile belongs to another request.

A deadline is storage's alone. A load's clock runs while one of its jobs is with storage, not while it waits for others,
a slot or the engine, and begins anew with each eighth of the load that arrives. Storage that answers nobody for as long
hangs: then those loads end too whose reads have not begun.

What a block costs beside its bytes counts: the thread needs the interpreter for it, as the engine's does. So nothing is
done for each block that can be done for a run, nor for a run that can be done for all that are there.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockfile import DIGEST_BYTES, Failure
from vernal_worker.kv.copy_stream import CopyStream
from vernal_worker.kv.counters import BYTES, LOAD_FAILURES, SECONDS, Counters
from vernal_worker.kv.crew import Crew, GoneError, start_thread
from vernal_worker.kv.jobs import LABEL, MOST_BLOCKS, Answer, Job, joined
from vernal_worker.kv.loads import Block, Load, Loaded, Move, Read, Run, Speed
from vernal_worker.kv.slots import Fence, Slots

_logger = logging.getLogger(LOGGER)
_BATCH = 16  # blocks that the engine's thread copies at a time, if they come soon
_BATCH_SECONDS = 0.002
_DEADLINE_SECONDS = 0.02  # how often a thread that does nothing but wait looks whether a load is overdue
_SLOT_SECONDS = 0.001  # how often the thread looks for copies that are over, where it has no slot left
_RUN_BYTES = 16 << 20
_AHEAD = 2  # jobs for each that is done at a time: who is done with one finds the next there
_JOIN_SECONDS = 30.0

Copier = Callable[[Sequence[Move]], Fence]


@dataclass(eq=False)
class _Reading:
    """A job that was given out: the load's blocks from `first` on, into the slots from `slot` on."""

    load: Load
    first: int
    slot: int
    count: int
    begun: bool = False  # else others are before it
    done: int = 0


class Loader:
    """`mark`, `start`, `poll`, `busy` and `stop` belong to one thread, the engine's.

    Args:
        doubt: is told of each block that could not be read, and why.
    """

    def __init__(
        self,
        crew: Crew,
        slots: Slots,
        counters: Counters,
        stream: CopyStream | None = None,
        doubt: Callable[[bytes, Failure], None] = lambda key, failure: None,
    ) -> None:
        self._crew = crew
        self._slots = slots
        self._counters = counters
        self._stream = stream
        self._doubt = doubt
        self._most = max(1, min(_RUN_BYTES // slots.slot_bytes, MOST_BLOCKS, slots.count // (_AHEAD * crew.size)))
        self._copy_lock = threading.Lock()  # held while a copy is enqueued, and while loads are ended
        self._changed = threading.Condition()
        self._loads: list[Load] = []
        self._verified: deque[Read] = deque()  # for the engine's thread, where it copies
        self._enough: int | None = None  # verified blocks for which the engine's thread waits
        self._readings: dict[int, _Reading] = {}  # with storage or before it, those of loads that are over included
        self._waiting: deque[_Reading] = deque()  # those for which others must be done with theirs first
        self._with_storage = 0
        self._heard = 0.0  # when a read last ended
        self._copying: deque[tuple[Fence, list[Read]]] = deque()
        self._number = 0
        self._speed = Speed()
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return bool(self._loads)

    def mark(self) -> None:
        """A step begins, whose loads are not started yet."""
        if self._stream is not None:
            self._stream.mark()

    def warm(self) -> None:
        """Have those who read started, in the background."""
        if self._run_thread():
            self._crew.wake()

    def start(self, request_id: str, blocks: Sequence[Block], timeout: float) -> None:
        """Begin to load `blocks`, which follow one another in the prompt.

        From here on the load ends by `poll` alone, also where nobody can be had to read.

        Args:
            timeout: seconds that storage has for each part of the load.
        """
        now = monotonic()
        load = Load(request_id, blocks, timeout, now)
        if self._stream is not None:
            self._stream.begin()
        with self._changed:
            if not self._loads:
                self._speed.begin(now)
            self._loads.append(load)
        if self._run_thread():
            self._crew.wake()
        else:
            load.message = "no thread to load with"
            load.pending.clear()
            for index in range(len(blocks)):
                load.fail(index, Failure.INTERNAL)

    def poll(self, copy: Copier, wait: float = 0.0) -> list[Loaded]:
        """Have what was verified copied into the KV cache and return the loads that are over.

        Args:
            copy: enqueues copies in the order of the engine's own work. Not used where there is a stream for them.
            wait: seconds to wait, at most, for the first load to be over if none is.
        """
        end = monotonic() + wait
        while True:
            if self._stream is None:
                self._copy_here(copy)
            loaded = self._finish()
            now = monotonic()
            if loaded or not self._loads or now >= end:
                return loaded
            with self._changed:
                pending = sum(len(load.pending) for load in self._loads)
                self._enough = min(_BATCH, pending) if self._stream is None else pending + 1
                patience = _BATCH_SECONDS if self._stream is None else _DEADLINE_SECONDS
                self._changed.wait_for(self._worth_a_look, min(end - now, patience))
                self._enough = None

    def take_rate(self) -> float | None:
        """Blocks a second, at the best time since the last call, if enough were loaded to tell."""
        return self._speed.take()

    def stop(self) -> None:
        """Nobody polls any more: what is queued is not read, nothing more is copied, and nobody is left who reads."""
        with self._copy_lock, self._changed:
            self._stopped = True
            for load in self._loads:
                load.over = True
            thread = self._thread
        if thread is None:
            self._crew.close()
        else:
            self._crew.wake()
            thread.join(_JOIN_SECONDS)

    # The engine's thread.

    def _worth_a_look(self) -> bool:
        if any(load.complete() for load in self._loads):
            return True
        return self._enough is not None and sum(some.length for some in self._verified) >= self._enough

    def _copy_here(self, copy: Copier) -> None:
        with self._changed:
            verified, unused = self._wanted(list(self._verified))
            self._verified.clear()
        moves = [
            Move(some.slot + at, some.load.blocks[some.first + at].block_id)
            for some in verified
            for at in range(some.length)
        ]
        try:
            fence = copy(moves) if moves else None
        except Exception:
            _logger.exception("verified KV blocks could not be copied into the KV cache")
            self._not_copied(verified)
            return
        with self._changed:
            self._give_back(unused)
            if fence is not None:
                self._copied(verified, fence)
                self._recycle()
        if unused or verified:
            self._crew.wake()  # there may be slots again

    def _finish(self) -> list[Loaded]:
        loaded: list[Loaded] = []
        going_on: list[Load] = []
        now = monotonic()
        with self._changed:
            if not any(self._is_over(load, now) for load in self._loads):
                return loaded  # what most calls find: a copy that is being enqueued is not waited for
        with self._copy_lock, self._changed:
            for load in self._loads:
                if not self._is_over(load, now):
                    going_on.append(load)
                    continue
                hung = not load.complete() and self._silent(load, now)
                load.end()
                loaded.append(self._result(load, now, hung))
            if loaded and self._stream is not None:
                self._stream.end()
            self._loads = going_on
        if loaded:
            self._speed.end(now)
        return loaded

    def _is_over(self, load: Load, now: float) -> bool:
        return load.complete() or self._silent(load, now) or load.overdue(now)

    def _silent(self, load: Load, now: float) -> bool:
        """Whether storage answered nobody for the load's time-out, although it was asked."""
        return self._with_storage > 0 and now - max(self._heard, load.started) >= load.timeout

    def _result(self, load: Load, now: float, hung: bool) -> Loaded:
        if load.failures:
            _logger.warning(
                "request %s: %d of %d KV blocks not loaded, because of: %s",
                load.request_id,
                len(load.failures),
                len(load.blocks),
                load.message or ", ".join(sorted(set(load.failures.values()))),
            )
        for failure in load.failures.values():
            self._counters.add(LOAD_FAILURES, 1, failure)
        self._counters.add(SECONDS, now - load.started, "load")
        return load.result(hung)

    # The thread that loads.

    def _run_thread(self) -> bool:
        """Returns whether there is one."""
        with self._changed:
            if self._thread is None and not self._stopped:
                self._thread = start_thread("vernal-kv-load", self._run)
            return self._thread is not None

    def _run(self) -> None:
        try:
            self._crew.ready()  # before a load needs it, where there is none yet
            while not self._stopped:
                try:
                    self._take(self._receive())
                    self._give_out()
                except Exception:
                    _logger.exception("KV blocks are not loaded")
                    self._fail_all("a bug; the log has it")
        finally:
            self._crew.close()

    def _receive(self) -> list[Answer]:
        try:
            return self._crew.receive(self._patience())
        except GoneError:
            self._gone()
            return []

    def _patience(self) -> float | None:
        """There are answers to wait for; or copies, where slots or digests are all that is missing and nobody says when
        one is over."""
        with self._changed:
            return _SLOT_SECONDS if self._copying and any(load.pending for load in self._loads) else None

    def _take(self, answers: Sequence[Answer]) -> None:
        read: list[Read] = []
        with self._changed:
            for answer in answers:
                if (reading := self._readings.get(answer.number)) is not None:
                    read += self._answered(reading, answer)
            if self._stream is None:
                self._verified.extend(read)
        if self._stream is not None and read:
            self._copy_beside(self._stream, read)
        with self._changed:
            self._recycle()
            if self._enough is not None and self._worth_a_look():
                self._enough = None
                self._changed.notify_all()

    def _answered(self, reading: _Reading, answer: Answer) -> list[Read]:
        """With the lock: what was read, for whoever copies. The rest has failed, and its slots are free."""
        now = self._heard = monotonic()
        load, first, slot = reading.load, reading.first + reading.done, reading.slot + reading.done
        good = answer.outcomes.index(next(filter(None, answer.outcomes))) if any(answer.outcomes) else None
        count = len(answer.outcomes) if good is None else good
        reading.done += len(answer.outcomes)
        load.read(now, count)
        if good is not None:
            self._failed(load, first, answer, count)
            self._give_back([range(slot + count, slot + len(answer.outcomes))])
        if reading.done >= reading.count:
            del self._readings[answer.number]
            load.end_read(now)
            self._with_storage -= 1
            self._begin(now)
        if load.over:  # its blocks may belong to another request
            self._give_back([range(slot, slot + count)])
            return []
        return [Read(load, first, slot, count, answer.digests)] if count else []

    def _failed(self, load: Load, first: int, answer: Answer, count: int) -> None:
        for at, outcome in enumerate(answer.outcomes[count:], first + count):
            failure = Failure(outcome)
            if failure is not Failure.SKIPPED:
                self._doubt(load.blocks[at].key, failure)
            if not load.over:
                load.pending.discard(at)
                load.fail(at, failure)
        if answer.message:
            load.message = answer.message
        if answer.bug:
            _logger.error("KV block not loaded for request %s: %s", load.request_id, answer.message)
            load.message = "a bug; the log has it"

    def _copy_beside(self, stream: CopyStream, answered: Sequence[Read]) -> None:
        """Copy what was read, unless the load is over: the engine's thread ends it under the same lock, and has what it
        does next with these blocks wait for the copies so far."""
        with self._copy_lock:
            with self._changed:
                read, unused = self._wanted(answered)
            try:
                for load in {id(some.load): some.load for some in read}.values():
                    if load.target is None:
                        load.target = stream.prepare([block.block_id for block in load.blocks])
                runs = [Run(some.load.target, some.first, some.slot, some.length) for some in read]
                fence = stream.copy(runs) if runs else None
            except Exception:
                _logger.exception("KV blocks could not be copied into the KV cache")
                self._not_copied(read)
                read, fence = [], None
            with self._changed:
                self._give_back(unused)
                if fence is not None:
                    self._copied(read, fence)

    @staticmethod
    def _wanted(read: Sequence[Read]) -> tuple[list[Read], list[range]]:
        """What is to be copied, and the slots of what is not: its load is over, or an earlier block failed."""
        wanted: list[Read] = []
        unused: list[range] = []
        for some in read:
            load, count = some.load, some.length
            if load.over:
                count = 0
            elif load.first_failure is not None:
                count = max(0, min(count, load.first_failure - some.first))
                for index in range(some.first + count, some.first + some.length):
                    load.pending.discard(index)
                    load.fail(index, Failure.SKIPPED)
            if count:
                wanted.append(some._replace(length=count, digests=some.digests[: count * DIGEST_BYTES]))
            if count < some.length:
                unused.append(range(some.slot + count, some.slot + some.length))
        return wanted, unused

    def _copied(self, read: Sequence[Read], fence: Fence) -> None:
        """With the lock: copies are enqueued. What was verified has arrived by that: what the device does next comes
        behind it."""
        self._copying.append((fence, list(read)))
        count = 0
        for some in read:
            if not some.digests:
                some.load.pending.difference_update(range(some.first, some.first + some.length))
            count += some.length
        self._speed.add(count)
        self._counters.add(BYTES, count * self._slots.slot_bytes, "read")

    def _not_copied(self, read: Sequence[Read]) -> None:
        with self._changed:
            self._give_back([some.slots for some in read])
            for some in read:
                for index in range(some.first, some.first + some.length):
                    some.load.pending.discard(index)
                    some.load.fail(index, Failure.INTERNAL)

    def _recycle(self) -> None:
        """With the lock: slots of copies that are over are free again, and what the device hashed is known. Copies end
        in their order, so only the first is looked at."""
        while self._copying and self._copying[0][0].done():
            _, read = self._copying.popleft()
            for some in read:
                if some.digests:
                    self._compare(some)
            self._give_back([some.slots for some in read])

    def _compare(self, some: Read) -> None:
        """With the lock: what the device has is what was wanted, or is read once more, by who hashes it there and then:
        what that finds counts."""
        assert self._stream is not None
        load = some.load
        differing = some.differing(self._stream.digests(some.slots))
        load.pending.difference_update(set(range(some.first, some.first + some.length)).difference(differing))
        load.again += [index for index in differing if index in load.pending and not load.useless(index)]

    def _give_back(self, slots: Sequence[range]) -> None:
        for some in slots:
            self._slots.give_back(some)

    def _give_out(self) -> None:
        """Give out as many blocks as there are slots for, the first load's first."""
        with self._changed:
            loads = [load for load in self._loads if load.wanted()]
        if not loads:
            return
        ready = self._crew.ready()  # which takes a moment if they must be started
        with self._changed:
            for load in loads:
                if not ready:
                    self._fail_load(load, "no process to read with")
                while load.wanted():
                    if len(self._readings) >= _AHEAD * self._crew.size or not self._give(load):
                        return

    def _give(self, load: Load) -> bool:
        """With the lock. Returns whether more can be given out."""
        slots = self._slots.take(load.run(self._most, self._crew.size))
        if not slots:
            return False
        keys = joined([block.key for block in load.blocks[load.first : load.first + len(slots)]])
        verify = bool(load.again) or self._stream is None or not self._stream.hashes
        self._number += 1
        job = Job(self._number, load.request_id[:LABEL], slots.start, keys, verify=verify)
        if not self._crew.send(job):
            self._slots.give_back(slots)
            return False
        taken = load.take(len(slots))
        reading = _Reading(load, taken.start, slots.start, len(taken))
        self._readings[self._number] = reading
        self._waiting.append(reading)
        self._begin(monotonic())
        return True

    def _begin(self, now: float) -> None:
        """With the lock: jobs are taken up in their order, as many as are done at a time. From then on storage has
        them."""
        while self._waiting and self._with_storage < self._crew.size:
            reading = self._waiting.popleft()
            reading.begun = True
            reading.load.begin_read(now)
            if self._with_storage == 0:
                self._heard = now
            self._with_storage += 1

    def _gone(self) -> None:
        """Nobody reads any more, so that no slot is in use, and what was not answered never will be."""
        _logger.error(
            "a process that reads KV blocks has ended, as when memory is short: what it had is computed, and the next "
            "load starts another"
        )
        with self._changed:
            now = monotonic()
            for reading in self._readings.values():
                self._slots.give_back(range(reading.slot + reading.done, reading.slot + reading.count))
                if reading.begun:
                    reading.load.end_read(now)
                self._fail_load(reading.load, "a process that reads has ended")
            self._readings.clear()
            self._waiting.clear()
            self._with_storage = 0
            self._changed.notify_all()

    def _fail_all(self, why: str) -> None:
        with self._changed:
            for load in self._loads:
                self._fail_load(load, why)
            self._changed.notify_all()

    def _fail_load(self, load: Load, why: str) -> None:
        """With the lock: what was not verified is not loaded."""
        if load.over:
            return
        verified = {some.first + at for some in self._verified if some.load is load for at in range(some.length)}
        lost = sorted(load.pending - verified)
        load.message = why
        load.pending.difference_update(lost)
        for index in lost:
            load.fail(index, Failure.INTERNAL)
        self._changed.notify_all()
