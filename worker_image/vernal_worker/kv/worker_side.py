"""What the connector does in a worker's process: loads and saves, between the KV cache and the store. Engine-free."""

import logging
import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockfile import Failure
from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.copy_stream import CopyStream
from vernal_worker.kv.counters import LOAD_FAILURES, LOADED_TOKENS, SAVES, Counters
from vernal_worker.kv.crew import Crew
from vernal_worker.kv.fingerprint import canonical, fingerprint
from vernal_worker.kv.loader import Loader
from vernal_worker.kv.loads import Loaded, Move
from vernal_worker.kv.planner import LoadPlan, Report, StepPlan
from vernal_worker.kv.processes import processes
from vernal_worker.kv.saver import Saver
from vernal_worker.kv.settings import Settings
from vernal_worker.kv.sizelimit import SizeLimit
from vernal_worker.kv.slots import Fence, Slots
from vernal_worker.kv.workers import Workers

_logger = logging.getLogger(LOGGER)
_MIB = 1 << 20
_IDLE_WAIT_SECONDS = 0.005
"""How long a step without tokens waits for a load. Without it the engine would spin, and take the interpreter from the
thread that loads; with more a new request would have to wait."""


class KVCache(Protocol):
    """The engine's KV cache, as `vernal_worker.kv.pages` shows it."""

    block_bytes: int
    page_locked: bool
    """Whether slots take a moment to make."""

    def host_slots(self, budget_bytes: int) -> Slots: ...

    def copy_stream(self, host: Any) -> CopyStream | None:
        """For copies from the slots of `host`, which came from `host_slots`, into the KV cache, if there is one."""

    def load(self, host: Any, moves: Sequence[Move]) -> Fence:
        """Enqueue such copies where there is none."""

    def save(self, host: Any, moves: Sequence[Move]) -> Fence:
        """Enqueue copies from the KV cache into slots."""

    def release(self) -> None:
        """Wait for copies, and give memory back that is only there for them."""


class Store:
    """What a worker holds while it is connected; dropped whole by `WorkerSide.release`."""

    def __init__(self, blocks: BlockStore, cache: KVCache, settings: Settings, counters: Counters) -> None:
        self.blocks = blocks
        self._cache = cache
        self._settings = settings
        self._workers = Workers("vernal-kv", 2)
        self._counters = counters
        self._load_slots: Slots | None = None
        self._save_slots: Slots | None = None
        self._loader: Loader | None = None
        self._saver: Saver | None = None
        self._limit = SizeLimit(settings.root, settings.max_bytes, counters)
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def loader(self) -> Loader:
        """Made when first needed, or in good time by `warm`."""
        with self._lock:
            if self._stopped:
                raise RuntimeError("the KV store is released")
            if self._loader is None:
                self._load_slots = self._cache.host_slots(self._settings.load_buffer_mib * _MIB)
                self._loader = Loader(
                    self.readers(self._load_slots, self._settings.threads),
                    self._load_slots,
                    self._counters,
                    self._cache.copy_stream(self._load_slots),
                    self.blocks.doubt,
                )
            return self._loader

    def readers(self, slots: Slots, count: int) -> Crew:
        """Those who read into `slots`, `count` at a time; not started yet."""
        return processes("vernal-kv-load", count, self.blocks, slots, writes=False, populate=self._cache.page_locked)

    def writers(self, slots: Slots, count: int) -> Crew:
        """Those who write from there."""
        return processes("vernal-kv-save", count, self.blocks, slots, writes=True, populate=self._cache.page_locked)

    def describe(self, text: bytes) -> None:
        """Leave `text` in the store, in the background: storage that hangs must not keep the engine from starting."""
        self._workers.submit(lambda: self._describe(text))

    def _describe(self, text: bytes) -> None:
        try:
            self.blocks.describe(text)
        except OSError as error:  # read-only is fine for a consumer, and storage may come back
            _logger.warning(
                "KV store %s cannot be written: %s; check spec.kvTransfer.path and its volume", self.blocks.root, error
            )

    def warm(self) -> None:
        """Have memory for loads made in the background, and processes started: the first request needs them."""
        self._workers.submit(self._warm)

    def _warm(self) -> None:
        try:
            self.loader.warm()
        except (RuntimeError, OSError) as error:
            _logger.warning("no memory for loads yet: %s", error)

    @property
    def saver(self) -> Saver:
        if self._saver is None:
            self._save_slots = self._cache.host_slots(self._settings.save_buffer_mib * _MIB)
            self._saver = Saver(
                self.writers(self._save_slots, max(1, self._settings.threads // 2)),
                self._save_slots,
                self._counters,
                self._limit,
                self.blocks,
                self._settings.cooldown_seconds,
            )
        return self._saver

    def copy_in(self, moves: Sequence[Move]) -> Fence:
        assert self._load_slots is not None
        return self._cache.load(self._load_slots, moves)

    def copy_out(self, moves: Sequence[Move]) -> Fence:
        assert self._save_slots is not None
        return self._cache.save(self._save_slots, moves)

    def mark(self) -> None:
        if self._loader is not None:
            self._loader.mark()

    def take_rate(self) -> float | None:
        return self._loader.take_rate() if self._loader is not None else None

    def flush(self, timeout: float) -> bool:
        return self._saver is None or self._saver.flush(timeout)

    def stop(self, timeout: float) -> None:
        """Nothing of the store is in use any more, unless storage hangs for longer than `timeout` seconds."""
        self._limit.stop(timeout)
        with self._lock:
            self._stopped = True
        self._workers.stop()
        if self._loader is not None:
            self._loader.stop()
        if self._saver is not None:
            self._saver.stop()
        self._cache.release()
        for slots in (self._load_slots, self._save_slots):
            if slots is not None:
                slots.close()
        self._loader = self._saver = self._load_slots = self._save_slots = None


class WorkerSide:
    """Connected from `connect` until `release`, and again from `reconnect`. Belongs to the engine's thread."""

    def __init__(
        self, settings: Settings, counters: Counters, *, block_tokens: int, first_rank: bool, only_producer: bool
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._block_tokens = block_tokens
        self._first_rank = first_rank
        self._only_producer = only_producer
        self._cache: KVCache | None = None
        self._description = b""
        self._store: Store | None = None
        self._loads: dict[str, LoadPlan] = {}  # under way, by request
        self._finished: set[str] = set()
        self._invalid: dict[int, Failure] = {}
        self._failed_steps = 0
        self._suppressed: set[bytes] = set()
        self._hung = False
        self.layout: Layout | None = None
        """What this worker's blocks are; None if they cannot be shared."""

    def connect(self, cache: KVCache, facts: Mapping[str, Any]) -> None:
        """The engine has made its KV cache, and `facts` are all that the content of its blocks depends on."""
        self._cache = cache
        self._description = canonical(facts)
        self.layout = Layout(fingerprint(facts), self._block_tokens, cache.block_bytes)
        self.reconnect(self._settings)

    def make_store(self, settings: Settings, layout: Layout, cache: KVCache) -> Store:
        return Store(BlockStore(settings.root, layout), cache, settings, self._counters)

    def reconnect(self, settings: Settings) -> None:
        self._settings = settings
        if self.layout is None or self._cache is None or self._store is not None:
            return
        self._store = self.make_store(settings, self.layout, self._cache)
        self._store.describe(self._description)
        if not self._only_producer:
            self._store.warm()
        _logger.info(
            "KV store %s, layout %s, %.2f MiB a block of %d tokens",
            settings.root,
            self.layout.fingerprint.hex()[:16],
            self.layout.payload_bytes / _MIB,
            self._block_tokens,
        )

    def load_timeout(self) -> float:
        return self._settings.load_timeout_seconds

    def flush(self, timeout: float) -> bool:
        return self._store is None or self._store.flush(timeout)

    def release(self, timeout: float) -> None:
        store, self._store = self._store, None
        if store is None:
            return
        end = monotonic() + timeout
        if not store.flush(timeout):
            _logger.warning("KV store: not all saves were written within %.0f s; they are given up", timeout)
        store.stop(max(0.0, end - monotonic()))
        for load in list(self._loads.values()):
            self._fail(load, Failure.CLOSED)

    def before_step(self) -> None:
        """Copy what was read before the device is given the step's work: the copies are over when that is, and their
        slots are free again for the next step. Behind it, they would be for the one after. Where copies have a stream
        of their own, those of this step's loads need not wait for its work, though vLLM may start them behind it."""
        if self._store is not None:
            self._store.mark()
        self._poll(0.0)

    def start(self, plan: StepPlan) -> None:
        """Begin this step's loads; those that the step itself needs are over when this returns."""
        for load in plan.loads:
            self._loads[load.request_id] = load
            try:
                if self._store is None:
                    self._fail(load, Failure.CLOSED)
                else:
                    self._store.loader.start(load.request_id, load.blocks, self.load_timeout())
            except Exception:  # for example no memory for slots: serving goes on without
                _logger.exception("KV blocks cannot be loaded")
                self._fail(load, Failure.INTERNAL)
        while self._store is not None and any(load.wait for load in self._loads.values()):
            for loaded in self._store.loader.poll(self._store.copy_in, self.load_timeout()):
                self._end(loaded)

    def save(self, plan: StepPlan) -> None:
        """Save what this step completed, unless it may have computed from blocks that were not loaded."""
        if not plan.saves:
            return
        if plan.seen_failures < self._failed_steps:
            self._suppressed.update(block.key for block in plan.saves)
            self._counters.add(SAVES, len(plan.saves), Saved.SUPPRESSED)
        elif self._store is not None:
            patience = self._settings.producer_wait_seconds if self._only_producer else 0.0
            try:
                self._store.saver.save(plan.saves, self._store.copy_out, patience)
            except Exception:  # for example no memory for slots: serving goes on without
                _logger.exception("KV blocks cannot be saved")

    def finished(self, idle: bool) -> set[str]:
        """Requests whose asynchronous loads are over, well or not."""
        self._poll(_IDLE_WAIT_SECONDS if idle and not self._finished else 0.0)
        finished, self._finished = self._finished, set()
        return finished

    def take_invalid(self) -> set[int]:
        return set(self._invalid)

    def take_report(self) -> Report | None:
        """What the scheduler should know of this step beside the failed blocks; ends the step, so it is asked last."""
        failures, self._invalid = self._invalid, {}
        suppressed, self._suppressed = frozenset(self._suppressed), set()
        hung, self._hung = self._hung, False
        rate = self._store.take_rate() if self._store is not None else None
        if not failures and not suppressed and rate is None:
            return None
        return Report(self._failed_steps, suppressed, failures, hung, rate)

    def _poll(self, wait: float) -> None:
        if self._loads and self._store is not None:
            for loaded in self._store.loader.poll(self._store.copy_in, wait):
                self._end(loaded)

    def _end(self, loaded: Loaded) -> None:
        """A load is over."""
        load = self._loads.pop(loaded.request_id)
        self._invalid.update(loaded.failures)
        self._hung |= loaded.hung
        if not load.wait:
            self._finished.add(loaded.request_id)
        elif loaded.failures:
            self._failed_steps += 1
        if self._first_rank:
            self._counters.add(LOADED_TOKENS, loaded.usable * self._block_tokens)

    def _fail(self, load: LoadPlan, failure: Failure) -> None:
        self._counters.add(LOAD_FAILURES, len(load.blocks), failure)
        self._end(Loaded(load.request_id, 0, {block.block_id: failure for block in load.blocks}))
