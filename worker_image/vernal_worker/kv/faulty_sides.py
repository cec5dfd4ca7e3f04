"""The two sides of the connector with faults in what storage says. Engine-free; vLLM's is `kv.faulty`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.crew import Crew, threads
from vernal_worker.kv.faults import Faults, FaultyFiles, Kind
from vernal_worker.kv.jobs import LABEL
from vernal_worker.kv.loads import Loaded
from vernal_worker.kv.planner import StepPlan
from vernal_worker.kv.scheduler_side import Prompt, SchedulerSide
from vernal_worker.kv.serving import Reads, writes_of
from vernal_worker.kv.settings import Settings
from vernal_worker.kv.slots import Slots
from vernal_worker.kv.worker_side import KVCache, Store, WorkerSide


class FaultySchedulerSide(SchedulerSide):
    def __init__(self, faults: Faults, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._faults = faults
        self._hidden: dict[str, frozenset[bytes]] = {}

    def load_async(self) -> bool:
        wanted = self._faults.fault.load_async
        return super().load_async() if wanted is None else wanted

    def make_store(self, settings: Settings, layout: Layout) -> BlockStore:
        return _HidingStore(self._hidden, settings.root, layout)

    def match(self, prompt: Prompt, computed: int) -> tuple[int | None, bool]:
        hiding = prompt.tokens is not None and self._faults.fault.kind is Kind.MISSING
        if hiding and prompt.request_id not in self._hidden:
            assert prompt.tokens is not None
            keys = self.keys(prompt.tokens, prompt)
            self._hidden[prompt.request_id] = hidden = self._faults.at_lookup(keys)
            if hidden:
                self.doubt(hidden, keys)  # what was seen before does not count
        elif not hiding:
            self._hidden.clear()
        return super().match(prompt, computed)


class _HidingStore(BlockStore):
    def __init__(self, hidden: Mapping[str, frozenset[bytes]], root: Path, layout: Layout) -> None:
        super().__init__(root, layout)
        self._hidden = hidden

    def contains(self, key: bytes) -> bool:
        return super().contains(key) and not any(key in keys for keys in list(self._hidden.values()))


class FaultyWorkerSide(WorkerSide):
    def __init__(self, faults: Faults, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._faults = faults
        self._hit: dict[str, frozenset[bytes]] = {}

    def make_store(self, settings: Settings, layout: Layout, cache: KVCache) -> Store:
        blocks = _FaultySaves(self._faults, settings.root, layout)
        return _FaultyStore(self._faults, self._hit, blocks, cache, settings, self._counters)

    def load_timeout(self) -> float:
        wanted = self._faults.fault.load_timeout_seconds
        return super().load_timeout() if wanted is None else wanted

    def start(self, plan: StepPlan) -> None:
        for load in plan.loads:
            self._hit[load.request_id[:LABEL]] = self._faults.at_load([block.key for block in load.blocks])
        super().start(plan)

    def _end(self, loaded: Loaded) -> None:
        if not self._faults.fault.report:
            loaded = Loaded(loaded.request_id, loaded.usable, {}, loaded.hung)
        super()._end(loaded)


class LocalStore(Store):
    """Has blocks read and written by threads of this process: these know what a test would have storage do."""

    def readers(self, slots: Slots, count: int) -> Crew:
        return threads("vernal-kv-load", count, slots.view, Reads(self.read, self.blocks.used))

    def writers(self, slots: Slots, count: int) -> Crew:
        return threads("vernal-kv-save", count, slots.view, writes_of(self.blocks))

    def read(self, request: str, key: bytes, into: memoryview, verify: bool) -> bytes:
        return self.blocks.fetch(key, into, verify=verify)


class _FaultyStore(LocalStore):
    def __init__(self, faults: Faults, hit: Mapping[str, frozenset[bytes]], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._faults = faults
        self._hit = hit

    def read(self, request: str, key: bytes, into: memoryview, verify: bool) -> bytes:
        if key in self._hit.get(request, ()):
            faulty = BlockStore(self.blocks.root, self.blocks.layout, FaultyFiles(self._faults.fault))
            return faulty.fetch(key, into, verify=verify)
        return super().read(request, key, into, verify)


class _FaultySaves(BlockStore):
    def __init__(self, faults: Faults, root: Path, layout: Layout) -> None:
        super().__init__(root, layout)
        self._faults = faults

    def write(self, key: bytes, payload: memoryview, replace: bool = False) -> Saved:
        if self._faults.hits_save():
            return BlockStore(self.root, self.layout, FaultyFiles(self._faults.fault)).write(key, payload, replace)
        return super().write(key, payload, replace)
