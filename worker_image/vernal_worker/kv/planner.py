"""The scheduler's side: which blocks of a request to load, which to save, and what to do about those that failed.

Pure: it knows requests by their ids, blocks by keys and numbers, and neither vLLM nor storage.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from vernal_worker.kv import blockfile
from vernal_worker.kv.admission import Admission
from vernal_worker.kv.blockfile import Failure
from vernal_worker.kv.counters import DECLINED_TOKENS, LOOKED_UP_TOKENS, RECOMPUTED_TOKENS, Counters
from vernal_worker.kv.loads import Block

_LOST = blockfile.REWRITE | {Failure.MISSING}
_FRESH_SECONDS = 1.0
"""How long a lookup is believed: the scheduler asks at every step while a request waits for room."""


class Answer(Protocol):
    def hits(self) -> int | None:
        """How many of the keys, from the first on, are in the store; None if that is not known yet."""


class Storage(Protocol):
    def ask(self, keys: Sequence[bytes]) -> Answer:
        """Begin to look up `keys`, which follow one another in a prompt."""

    def doubt(self, lost: Iterable[bytes], behind: Iterable[bytes]) -> None:
        """`lost` were said to be there, and could not be loaded; `behind` come after the first of them."""


@dataclass(frozen=True)
class LoadPlan:
    """Load these blocks for this request; `wait` means before this step's forward pass."""

    request_id: str
    blocks: tuple[Block, ...]
    wait: bool


@dataclass(frozen=True)
class StepPlan:
    """What the workers do in one step.

    Attributes:
        idle: no tokens are computed, so that a worker may wait a moment for loads.
        seen_failures: how many steps with a failed waiting load the scheduler knew of when it made this plan.
    """

    loads: tuple[LoadPlan, ...] = ()
    saves: tuple[Block, ...] = ()
    idle: bool = False
    seen_failures: int = 0


@dataclass(frozen=True)
class Report:
    """What a worker tells the scheduler beside the failed blocks.

    Attributes:
        failed_steps: how many steps had a waiting load that failed, since the worker started.
        suppressed: keys that were planned to be saved, and were not for that reason.
        failures: why blocks failed, by block id.
        hung: storage answered nobody while one of them was to be loaded.
        rate: blocks a second that were loaded of late, if that can be told.
    """

    failed_steps: int = 0
    suppressed: frozenset[bytes] = frozenset()
    failures: dict[int, Failure] = field(default_factory=dict)
    hung: bool = False
    rate: float | None = None


@dataclass(frozen=True)
class Scheduled:
    """A request's part in a step: `scheduled` tokens after the first `computed`.

    Attributes:
        blocks: block ids to append to those that the request has, or (`replaced`) all that it has.
    """

    request_id: str
    computed: int
    scheduled: int
    blocks: Sequence[int] = ()
    replaced: bool = False


@dataclass(eq=False)
class _Request:
    keys: list[bytes]
    unsaved: set[int]
    alone: Callable[[], bool]  # whether the keys still say all
    hits: int = 0  # as storage said last
    looked_up: float = 0.0  # when it said so
    answer: Answer | None = None  # to what it was asked since
    stale: bool = True  # what it said does not count any more
    counted: bool = False
    declined: bool = False
    saved_to: int = 0  # before it nothing is unsaved
    block_ids: list[int] = field(default_factory=list)
    planned: dict[bytes, int] = field(default_factory=dict)  # saves that workers were told to do
    usable: int = 0  # blocks that may be offered: none from the first that failed on
    offered_from: int = 0
    loaded_to: int = 0  # end of what was loaded, in blocks; 0 if nothing was
    load_async: bool = False

    def to_save(self, indices: Iterable[int]) -> None:
        """These blocks are to be saved, perhaps again, once they are computed."""
        for index in indices:
            self.unsaved.add(index)
            self.saved_to = min(self.saved_to, index)


class Planner:
    """One for each scheduler.

    Args:
        block_tokens: tokens in a block.
        storage: what to ask for keys that are in the store.
        admission: whether what is in the store is worth loading.
        loads: this role reads from the store.
        saves: this role writes to it.
    """

    def __init__(
        self,
        block_tokens: int,
        storage: Storage,
        counters: Counters,
        admission: Admission,
        *,
        loads: bool,
        saves: bool,
    ) -> None:
        self._block_tokens = block_tokens
        self._storage = storage
        self._counters = counters
        self._admission = admission
        self._loads = loads
        self._saves = saves
        self._requests: dict[str, _Request] = {}
        self._new_loads: list[LoadPlan] = []
        self._loading: dict[bytes, str] = {}  # first key of an asynchronous load -> who loads it
        self._in_flight: dict[str, int] = {}  # tokens of asynchronous loads, by who loads them
        self._failed_steps = 0

    def match(
        self,
        request_id: str,
        keys: Callable[[], list[bytes]],
        *,
        tokens: int,
        computed: int,
        may_load: bool,
        load_async: bool,
        alone: Callable[[], bool] = lambda: True,
    ) -> tuple[int | None, bool]:
        """How many tokens beyond the first `computed` the store has for a request that is about to start.

        Args:
            keys: the keys of the prompt's full blocks; asked for once.
            tokens: length of the request. Its last token is always computed: sampling needs its output.
            may_load: False for a request that must see all its tokens computed.
            alone: whether its keys still say all that its blocks are computed from; asked before some are saved.

        Returns:
            The number and whether to load asynchronously; None to be asked again, while storage has not answered or
            another request loads the same.
        """
        request = self._requests.get(request_id)
        if request is None:
            request = self._begin(request_id, keys(), alone)
        self._look_up(request)
        first, odd = divmod(computed, self._block_tokens)
        end = min(request.usable, (tokens - 1) // self._block_tokens)
        if odd or not self._loads or not may_load or first >= end:
            return 0, False
        if request.stale:
            return None, False
        last = min(request.hits, end)
        if last <= first:
            return 0, False
        if load_async and self._loading.get(request.keys[first], request_id) != request_id:
            return None, False
        offered = (last - first) * self._block_tokens
        if not self._admission.worth(offered, sum(self._in_flight.values())):
            if not request.declined:
                self._counters.add(DECLINED_TOKENS, offered)
            request.declined = True
            return 0, False
        request.offered_from = first
        request.load_async = load_async
        return offered, load_async

    def allocate(self, request_id: str, block_ids: Sequence[int], external_tokens: int) -> None:
        """The scheduler gave the request these blocks, and wants the first `external_tokens` of what was offered."""
        request = self._requests.get(request_id)
        if request is None:
            return
        request.block_ids = list(block_ids)
        count = external_tokens // self._block_tokens
        if count == 0:
            return
        first, last = request.offered_from, request.offered_from + count
        blocks = [
            Block(key, block_id) for key, block_id in zip(request.keys[first:last], block_ids[first:last], strict=True)
        ]
        request.loaded_to = last
        if request.load_async:
            self._loading[blocks[0].key] = request_id
            self._in_flight[request_id] = external_tokens
        self._new_loads.append(LoadPlan(request_id, tuple(blocks), wait=not request.load_async))

    def plan(self, step: Sequence[Scheduled]) -> StepPlan:
        """What the workers do in the step that the scheduler has just put together."""
        saves: list[Block] = []
        self._admission.scheduled(sum(scheduled.scheduled for scheduled in step))
        for scheduled in step:
            request = self._requests.get(scheduled.request_id)
            if request is None:
                continue
            self._take_answer(request)
            if scheduled.replaced:
                request.block_ids = list(scheduled.blocks)
            else:
                request.block_ids.extend(scheduled.blocks)
            full = (scheduled.computed + scheduled.scheduled) // self._block_tokens
            end = min(full, len(request.block_ids), len(request.keys))
            if request.saved_to < end and not request.alone():
                request.unsaved.clear()
            for index in range(request.saved_to, end):
                if index not in request.unsaved:
                    continue
                request.unsaved.discard(index)
                request.planned[request.keys[index]] = index
                saves.append(Block(request.keys[index], request.block_ids[index]))
            request.saved_to = max(request.saved_to, end)
        loads, self._new_loads = tuple(self._new_loads), []
        return StepPlan(loads, tuple(saves), idle=not step, seen_failures=self._failed_steps)

    def observe(self, invalid: Iterable[int], finished: Iterable[str], reports: Sequence[Report]) -> set[int]:
        """Take in what the workers said about a step.

        Returns: block ids that must leave the engine's own prefix cache. While a waiting load runs, the engine already
            counts its blocks as cached; if then the request goes before it computed them anew, another could find them.
        """
        for request_id in finished:
            self._stop_loading(request_id)
        suppressed: set[bytes] = set()
        failures: dict[int, Failure] = {}
        for report in reports:
            self._failed_steps = max(self._failed_steps, report.failed_steps)
            suppressed |= report.suppressed
            failures |= {block_id: failure for block_id, failure in report.failures.items() if failure in _LOST}
        rates = [report.rate for report in reports if report.rate is not None]
        if rates:  # of all ranks the slowest: a load is over when it is on all
            self._admission.loaded(min(rates) * self._block_tokens)
        bad = set(invalid)
        if not bad and not suppressed:  # nearly always; all blocks of all requests are many
            return set()
        untrusted: set[int] = set()
        for request_id, request in self._requests.items():
            request.to_save(index for key, index in request.planned.items() if key in suppressed)
            first = next((i for i, block_id in enumerate(request.block_ids) if block_id in bad), None)
            if first is not None:
                untrusted |= self._failed(request_id, request, first, failures)
        return untrusted

    def finish(self, request_id: str) -> None:
        """The request is over."""
        self._stop_loading(request_id)
        self._requests.pop(request_id, None)
        self._new_loads = [load for load in self._new_loads if load.request_id != request_id]

    def forget(self) -> None:
        """Drop all that was looked up: the store is another one now."""
        for request in self._requests.values():
            request.answer, request.stale = None, True

    def abandon(self) -> None:
        """Nothing is loaded or saved any more for the requests that are known."""
        self._requests.clear()
        self._new_loads.clear()
        self._loading.clear()
        self._in_flight.clear()

    def _begin(self, request_id: str, keys: list[bytes], alone: Callable[[], bool]) -> _Request:
        request = _Request(keys, set(range(len(keys))) if self._saves else set(), alone, usable=len(keys))
        self._requests[request_id] = request
        return request

    def _look_up(self, request: _Request) -> None:
        """What storage said last counts until it says something else, unless it turned out to be wrong."""
        if request.answer is None and (request.stale or monotonic() - request.looked_up > _FRESH_SECONDS):
            request.answer = self._storage.ask(request.keys)
        self._take_answer(request)

    def _take_answer(self, request: _Request) -> None:
        if request.answer is None or (hits := request.answer.hits()) is None:
            return
        request.answer, request.stale = None, False
        request.hits, request.looked_up = hits, monotonic()
        if request.counted:
            return
        request.counted = True
        request.unsaved.difference_update(range(hits))
        usable = hits if self._loads else 0
        self._counters.add(LOOKED_UP_TOKENS, usable * self._block_tokens, "hit")
        self._counters.add(LOOKED_UP_TOKENS, (len(request.keys) - usable) * self._block_tokens, "miss")

    def _failed(self, request_id: str, request: _Request, first: int, failures: Mapping[int, Failure]) -> set[int]:
        """The block at `first` was not loaded: it and all behind it are computed, and may be saved again. Where it was
        missing those behind it are as well, most likely: prompts are evicted from their end."""
        self._counters.add(RECOMPUTED_TOKENS, max(0, request.loaded_to - first) * self._block_tokens)
        request.loaded_to = min(request.loaded_to, first)
        request.usable = min(request.usable, first)
        self._stop_loading(request_id)
        blocks = zip(request.keys, request.block_ids, strict=False)
        lost = {index for index, (_, block_id) in enumerate(blocks) if index >= first and block_id in failures}
        self._storage.doubt([request.keys[index] for index in lost], request.keys[first:])
        if self._saves:
            missing = failures.get(request.block_ids[first]) is Failure.MISSING
            request.to_save(lost | set(range(first if missing else max(first, request.hits), len(request.keys))))
        self.forget()
        return set(request.block_ids[first:])

    def _stop_loading(self, request_id: str) -> None:
        self._loading = {key: who for key, who in self._loading.items() if who != request_id}
        self._in_flight.pop(request_id, None)
