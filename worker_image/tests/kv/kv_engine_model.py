"""A small engine around the real connector sides, without vLLM: enough of one to show what a wrong byte would do.

A block's KV is a hash of the block before it *in the KV cache* and of its tokens. So whatever wrong bytes get into the
cache spread to all that is computed from them, to the answer, and to what is saved. Steps may be scheduled before the
outcome of the last one is known, and blocks count as cached locally as soon as a step is to compute them, as in vLLM.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3
from patience import GUARD_SECONDS
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.faults import Fault, Faults
from vernal_worker.kv.faulty_sides import FaultySchedulerSide, FaultyWorkerSide
from vernal_worker.kv.keys import Salt, block_keys
from vernal_worker.kv.loads import Move, Run
from vernal_worker.kv.planner import LoadPlan, Report, Scheduled, StepPlan
from vernal_worker.kv.scheduler_side import Prompt
from vernal_worker.kv.settings import Settings
from vernal_worker.kv.slots import Done, Fence, Slots

_ASKED = 4
"""How often a fence of `LateCopies` is asked before it has the device do what comes before it."""

BLOCK_TOKENS = 4
BLOCK_BYTES = 96
FACTS = {"model": "of the tests", "block_bytes": BLOCK_BYTES}


def computed(before: bytes, tokens: Sequence[int]) -> bytes:
    return blake3(before + bytes(tokens)).digest(BLOCK_BYTES)


def true_blocks(tokens: Sequence[int]) -> list[bytes]:
    blocks = [b""]
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        blocks.append(computed(blocks[-1], tokens[start : start + BLOCK_TOKENS]))
    return blocks[1:]


def true_answer(tokens: Sequence[int]) -> bytes:
    return blake3(b"".join(true_blocks(tokens)) + bytes(tokens)).digest(8)


class Memory:
    """The KV cache. `loaded` is told each block that comes in from the store, and where to.

    Args:
        beside: it has a stream of its own for that.
    """

    block_bytes = BLOCK_BYTES
    page_locked = False

    def __init__(
        self, blocks: int, slots: int, loaded: Callable[[int, bytes], None], *,
        beside: bool = False, hashes: bool = False,
    ) -> None:  # fmt: skip
        self.bytes = bytearray(blocks * BLOCK_BYTES)
        self._slots = slots
        self._loaded = loaded
        self._beside = beside
        self.hashes = beside and hashes
        self.stream: LateCopies | None = None

    def __getitem__(self, block_id: int) -> bytes:
        return bytes(self.bytes[block_id * BLOCK_BYTES : (block_id + 1) * BLOCK_BYTES])

    def __setitem__(self, block_id: int, value: bytes) -> None:
        self.bytes[block_id * BLOCK_BYTES : (block_id + 1) * BLOCK_BYTES] = value

    def host_slots(self, budget_bytes: int) -> Slots:
        return Slots(memoryview(bytearray(self._slots * BLOCK_BYTES)), BLOCK_BYTES)

    def copy_stream(self, host: Slots) -> "LateCopies | None":
        view = host.view if self.hashes else None
        self.stream = LateCopies(lambda moves: self.load(host, moves), view) if self._beside else None
        return self.stream

    def load(self, host: Slots, moves: Sequence[Move]) -> Fence:
        for move in moves:
            value = bytes(host.view(move.slot))
            if not self.hashes:  # else it is looked at when the load is over: until then nobody uses it
                self._loaded(move.block_id, value)
            self[move.block_id] = value
        return Done()

    def save(self, host: Slots, moves: Sequence[Move]) -> Fence:
        for move in moves:
            host.view(move.slot)[:] = self[move.block_id]
        return Done()

    def release(self) -> None:
        return


class LateCopies:
    """A stream whose copies happen late, as a device may do them: when somebody has asked several times whether they
    are over, or when what follows `end` must find them. With `view`, of slots, it hashes what it copies."""

    def __init__(
        self, copy: Callable[[Sequence[Move]], Fence], view: Callable[[int], memoryview] | None = None
    ) -> None:
        self._copy = copy
        self._view = view
        self.hashes = view is not None
        self._digests: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._queue: deque[Sequence[Move]] = deque()
        self._copied = 0
        self.calls: list[str] = []

    def mark(self) -> None:
        self.calls.append("mark")

    def begin(self) -> None:
        self.calls.append("begin")

    def prepare(self, block_ids: Sequence[int]) -> Sequence[int]:
        return block_ids

    def copy(self, runs: Sequence[Run]) -> Fence:
        moves = [Move(run.slot + at, run.target[run.first + at]) for run in runs for at in range(run.length)]
        with self._lock:
            self._queue.append(moves)
            return _LateFence(self, self._copied + len(self._queue))

    def digests(self, slots: range) -> bytes:
        with self._lock:
            return b"".join(self._digests[slot] for slot in slots)

    def end(self) -> None:
        self.do(self._copied + len(self._queue))

    def did(self, number: int) -> bool:
        with self._lock:
            return self._copied >= number

    def do(self, number: int) -> None:
        """Everything up to the copy with this number, in order."""
        with self._lock:
            while self._queue and self._copied < number:
                moves = self._queue.popleft()
                self._copy(moves)
                if self._view is not None:
                    self._digests |= {move.slot: blake3(self._view(move.slot)).digest() for move in moves}
                self._copied += 1


class _LateFence:
    def __init__(self, stream: LateCopies, number: int) -> None:
        self._stream, self._number = stream, number
        self._asked = 0

    def done(self) -> bool:
        self._asked += 1
        if self._asked < _ASKED:
            return self._stream.did(self._number)
        self.wait()
        return True

    def wait(self) -> None:
        self._stream.do(self._number)


@dataclass(eq=False)
class Request:
    id: str
    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    started: bool = False
    loading: bool = False
    generation: int = 0  # raised when it is set back: what older steps computed is void
    answer: bytes | None = None
    failed: bool = False

    @property
    def full_blocks(self) -> int:
        return len(self.tokens) // BLOCK_TOKENS


@dataclass
class _Step:
    plan: StepPlan
    work: list[tuple[Request, int, int, int]]  # request, computed, scheduled, generation
    invalid: set[int] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    report: Report | None = None


class Engine:
    """One worker, role both.

    Args:
        depth: how many steps may be scheduled before the first one's outcome is known, at least 1.
        beside: the KV cache has a stream of its own for what is loaded.
        hashes: and hashes it.
        recompute: the load failure policy; False fails the requests.
    """

    def __init__(
        self, root: Path, faults: Faults, *, blocks: int = 64, slots: int = 8, depth: int = 1, recompute: bool = True,
        load_async: bool = True, load_timeout: float = GUARD_SECONDS, chunk: int = 12,
        beside: bool = False, hashes: bool = False,
    ) -> None:  # fmt: skip
        settings = Settings(
            shared_storage_path=str(root),
            load_async=load_async,
            load_timeout_seconds=load_timeout,
            lookup_timeout_seconds=GUARD_SECONDS,
            cooldown_seconds=0.0,
            threads=4,
        )
        self.counters = Counters()
        self.scheduler = FaultySchedulerSide(
            faults,
            settings,
            self.counters,
            block_tokens=BLOCK_TOKENS,
            ranks=1,
            loads=True,
            saves=True,
            recompute=recompute,
        )
        self.worker = FaultyWorkerSide(
            faults, settings, self.counters, block_tokens=BLOCK_TOKENS, first_rank=True, only_producer=False
        )
        self.memory = Memory(blocks, slots, self._check, beside=beside, hashes=hashes)
        self._loads: dict[str, LoadPlan] = {}
        self.worker.connect(self.memory, FACTS)
        assert self.worker.layout is not None
        self.scheduler.connect([self.worker.layout])
        self.scheduler.evict = self._evict
        self.unverified = 0
        self._depth, self._chunk, self._recompute = depth, chunk, recompute
        self._free = set(range(blocks))
        self._users = [0] * blocks
        self._cached: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._expected: dict[int, bytes] = {}
        self._requests: list[Request] = []
        self._steps: deque[_Step] = deque()

    def run(self, prompts: Sequence[Sequence[int]]) -> list[Request]:
        """Serve all prompts at once; returns when each has its answer or has failed."""
        known = len(self._requests)
        self._requests += [Request(f"r{known + i}", list(tokens)) for i, tokens in enumerate(prompts)]
        deadline = time.monotonic() + GUARD_SECONDS
        while time.monotonic() < deadline:
            if all(request.answer or request.failed for request in self._requests):
                while self._steps:
                    self._update(self._steps.popleft())
                return self._requests[known:]
            self._steps.append(self._execute(self._schedule()))
            if len(self._steps) >= self._depth or not self._steps[-1].work:
                self._update(self._steps.popleft())
        raise AssertionError(f"the engine did not come to an end within {GUARD_SECONDS:.0f} s")

    def reset_prefix_cache(self) -> None:
        self._cached.clear()
        self._key_of.clear()

    def close(self) -> None:
        self.worker.release(GUARD_SECONDS)
        self.scheduler.release()

    # --- scheduling ---------------------------------------------------------------------------------------------------

    def _schedule(self) -> _Step:
        scheduled: list[Scheduled] = []
        work: list[tuple[Request, int, int, int]] = []
        for request in self._requests:
            if request.answer or request.failed or request.loading:
                continue
            new = not request.started
            if new and not self._start(request):
                continue
            if request.loading or request.computed >= len(request.tokens):
                continue
            count = min(self._chunk, len(request.tokens) - request.computed)
            scheduled.append(Scheduled(request.id, request.computed, count, request.blocks if new else (), new))
            work.append((request, request.computed, count, request.generation))
            request.computed += count
            self._cache_locally(request)
        return _Step(self.scheduler.plan(scheduled), work)

    def _start(self, request: Request) -> bool:
        keys = block_keys(request.tokens, BLOCK_TOKENS)
        limit = (len(request.tokens) - 1) // BLOCK_TOKENS
        local = [self._cached[key] for key in itertools.takewhile(self._cached.__contains__, keys[:limit])]
        prompt = Prompt(request.id, request.tokens, len(request.tokens), Salt, True)
        external, load_async = self.scheduler.match(prompt, len(local) * BLOCK_TOKENS)
        missing = request.full_blocks - len(local)
        if external is None or len(self._free - set(local)) < missing:
            return False
        self._free -= set(local)
        fresh = sorted(self._free)[:missing]
        self._free -= set(fresh)
        for block_id in fresh:
            self._uncache(block_id)
        request.blocks = local + fresh
        request.started = True
        for block_id in request.blocks:
            self._users[block_id] += 1
        for block_id, value in zip(request.blocks, true_blocks(request.tokens), strict=True):
            self._expected[block_id] = value
        self.scheduler.planner.allocate(request.id, request.blocks, external)
        request.computed = len(local) * BLOCK_TOKENS + external
        request.loading = load_async and external > 0
        return True

    def _cache_locally(self, request: Request) -> None:
        keys = block_keys(request.tokens, BLOCK_TOKENS)
        for key, block_id in zip(keys, request.blocks[: request.computed // BLOCK_TOKENS], strict=False):
            if key not in self._cached:
                self._cached[key] = block_id
                self._key_of[block_id] = key

    # --- a step -------------------------------------------------------------------------------------------------------

    def _execute(self, step: _Step) -> _Step:
        self.worker.before_step()
        self._loads |= {load.request_id: load for load in step.plan.loads}
        self.worker.start(step.plan)
        self._check_loaded({load.request_id for load in step.plan.loads if load.wait})
        for request, start, count, _ in step.work:
            for index in range(start // BLOCK_TOKENS, (start + count) // BLOCK_TOKENS):
                before = self.memory[request.blocks[index - 1]] if index else b""
                tokens = request.tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
                self.memory[request.blocks[index]] = computed(before, tokens)
        self.worker.save(step.plan)
        step.finished = self.worker.finished(step.plan.idle)
        self._check_loaded(step.finished)
        step.invalid = self.worker.take_invalid()
        step.report = self.worker.take_report()
        return step

    def _update(self, step: _Step) -> None:
        for request in self._requests:
            if request.answer or request.failed:
                continue
            first = next((i for i, b in enumerate(request.blocks) if b in step.invalid), None)
            if first is not None and (self._recompute or request.computed > first * BLOCK_TOKENS):
                self._set_back(request, first)
        for request, start, count, generation in step.work:
            done = start + count == len(request.tokens) and generation == request.generation
            if done and not request.failed and request.answer is None:
                content = b"".join(self.memory[block_id] for block_id in request.blocks)
                request.answer = blake3(content + bytes(request.tokens)).digest(8)
        reports = [step.report] if step.report else []
        self.scheduler.observe(step.invalid, step.finished, reports)
        for request in self._requests:
            if request.id in step.finished:
                request.loading = False
                if request.computed or request.failed:
                    self._cache_locally(request)
                else:  # nothing was loaded: it begins anew, as if it had just come
                    self._give_up_blocks(request)
                    request.started = False
            if (request.answer or request.failed) and request.started and not request.loading:
                self.scheduler.planner.finish(request.id)
                self._give_up_blocks(request)
                request.started = False

    def _set_back(self, request: Request, first: int) -> None:
        request.computed = min(request.computed, first * BLOCK_TOKENS)
        request.generation += 1
        if not self._recompute:
            request.failed = True

    def _give_up_blocks(self, request: Request) -> None:
        for block_id in request.blocks:
            self._users[block_id] -= 1
            if self._users[block_id] == 0:
                self._free.add(block_id)
        request.blocks = []

    def _evict(self, block_ids: set[int]) -> None:
        for block_id in block_ids:
            self._uncache(block_id)

    def _uncache(self, block_id: int) -> None:
        key = self._key_of.pop(block_id, None)
        if key is not None:
            self._cached.pop(key, None)

    def _check_loaded(self, finished: set[str]) -> None:
        """Loads that are over: what of them is said to be there."""
        invalid = self.worker.take_invalid()
        for request_id in finished & self._loads.keys():
            for block in self._loads.pop(request_id).blocks:
                if block.block_id not in invalid:
                    self._check(block.block_id, self.memory[block.block_id])

    def _check(self, block_id: int, value: bytes) -> None:
        """The promise under test: what comes in from the store is what belongs there, bit for bit."""
        if value != self._expected[block_id]:
            self.unverified += 1


def fill(root: Path, *prompts: Sequence[int]) -> None:
    """Every block of `prompts` is on storage when this returns: an answer comes before what it saved is written."""
    blocks = sum(len(prompt) // BLOCK_TOKENS for prompt in prompts)
    engine = Engine(root, Faults(Fault()), blocks=blocks, slots=blocks)
    engine.run(prompts)
    engine.close()
    assert len(list(root.glob("*/*/*.kv"))) == blocks
