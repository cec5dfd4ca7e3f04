"""The connector that vLLM loads: `{"kv_connector": "VernalSharedStorageConnector", "kv_connector_module_path":
"vernal_worker.kv.connector"}`. Written for vLLM 0.26 to 0.32; it adapts, what can be done without vLLM is elsewhere.

vLLM makes one object for its scheduler and one for each worker process, of this same class.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)

from vernal_worker.kv import LOGGER, counters, facts, lifecycle, settings
from vernal_worker.kv.blockstore import Layout
from vernal_worker.kv.fingerprint import UnidentifiableError
from vernal_worker.kv.metrics import VernalKVPromMetrics, VernalKVStats
from vernal_worker.kv.pages import Pages, UnsupportedCacheError
from vernal_worker.kv.planner import Report, StepPlan
from vernal_worker.kv.scheduler_side import SchedulerSide
from vernal_worker.kv.worker_side import WorkerSide

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

_logger = logging.getLogger(LOGGER)


@dataclass
class VernalMetadata(KVConnectorMetadata):  # type: ignore[misc]
    plan: StepPlan


@dataclass
class VernalHandshake(KVConnectorHandshakeMetadata):  # type: ignore[misc]
    """What a worker tells the scheduler once: where its blocks are."""

    layout: Layout


@dataclass
class VernalWorkerMetadata(KVConnectorWorkerMetadata):  # type: ignore[misc]
    reports: list[Report]

    def aggregate(self, other: "VernalWorkerMetadata") -> "VernalWorkerMetadata":
        return VernalWorkerMetadata(self.reports + other.reports)


class VernalSharedStorageConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Verified KV blocks on shared storage.

    `SupportsHMA` only says that several KV cache groups may exist: for such a model nothing is offered or saved,
    and it runs as without a connector.
    """

    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._settings = settings.parse(self._own_settings())
        self._counters = counters.Counters()
        self._unsupported = facts.unsupported(vllm_config, kv_cache_config)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        if self._unsupported is not None:
            _logger.warning("KV blocks are not shared: %s", self._unsupported)
        elif role is KVConnectorRole.SCHEDULER:
            self._scheduler = self._make_scheduler_side()
        else:
            self._worker = self._make_worker_side()
        lifecycle.sign_up(self)

    # What a twin may replace.

    def _own_settings(self) -> Mapping[str, Any]:
        return dict(self._kv_transfer_config.kv_connector_extra_config)

    def _make_scheduler_side(self, make: Callable[..., SchedulerSide] = SchedulerSide) -> SchedulerSide:
        return make(
            self._settings,
            self._counters,
            block_tokens=self._vllm_config.cache_config.block_size,
            ranks=self._vllm_config.parallel_config.world_size,
            loads=self._kv_transfer_config.is_kv_consumer,
            saves=self._kv_transfer_config.is_kv_producer,
            synchronous=facts.recovers_synchronous_loads(self._vllm_config),
            recompute=self._kv_transfer_config.kv_load_failure_policy == "recompute",
        )

    def _make_worker_side(self, make: Callable[..., WorkerSide] = WorkerSide) -> WorkerSide:
        return make(
            self._settings,
            self._counters,
            block_tokens=self._vllm_config.cache_config.block_size,
            first_rank=self._vllm_config.parallel_config.rank == 0,
            only_producer=not self._kv_transfer_config.is_kv_consumer,
        )

    # Both sides.

    @property
    def requires_kv_delivery(self) -> bool:
        """A save that is dropped is a later miss, no more."""
        return False

    def flush(self, timeout: float) -> bool:
        return self._worker is None or self._worker.flush(timeout)

    def release(self, timeout: float) -> None:
        if self._worker is not None:
            self._worker.release(timeout)
        if self._scheduler is not None:
            self._scheduler.release()

    def reconnect(self, path: Path | None) -> None:
        if path is not None:
            self._settings = msgspec.structs.replace(self._settings, shared_storage_path=str(path))
        if self._worker is not None:
            self._worker.reconnect(self._settings)
        if self._scheduler is not None:
            self._scheduler.reconnect(self._settings)

    def shutdown(self) -> None:
        self.release(self._settings.flush_timeout_seconds)

    def get_kv_connector_stats(self) -> VernalKVStats | None:
        data = self._counters.take()
        return VernalKVStats(data) if data else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> VernalKVStats:
        return VernalKVStats(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: "VllmConfig",
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> VernalKVPromMetrics:
        return VernalKVPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    # The scheduler's side.

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: Mapping[tuple[int, ...], KVConnectorHandshakeMetadata]
    ) -> None:
        if self._scheduler is not None:
            self._scheduler.connect([shake.layout for shake in metadata.values() if isinstance(shake, VernalHandshake)])

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.evict = gpu_block_pool.evict_blocks

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        return self._scheduler.match(facts.prompt(request), num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            self._scheduler.planner.allocate(request.request_id, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> VernalMetadata:
        if self._scheduler is None:
            return VernalMetadata(StepPlan())
        return VernalMetadata(self._scheduler.plan(facts.step(scheduler_output)))

    def reset_cache(self) -> bool:
        if self._scheduler is not None:
            self._scheduler.reset()
        return True

    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is not None:
            meta = connector_output.kv_connector_worker_meta
            self._scheduler.observe(
                connector_output.invalid_block_ids or (),
                connector_output.finished_recving or (),
                meta.reports if isinstance(meta, VernalWorkerMetadata) else (),
            )

    def request_finished(self, request: Any, block_ids: Sequence[int]) -> tuple[bool, None]:
        """Saves were copied out of the KV cache in the step that computed them: the blocks may go."""
        if self._scheduler is not None:
            self._scheduler.planner.finish(request.request_id)
        return False, None

    def request_finished_all_groups(self, request: Any, block_ids: tuple[Sequence[int], ...]) -> tuple[bool, None]:
        return self.request_finished(request, ())

    # The worker's side.

    def register_kv_caches(self, kv_caches: Mapping[str, Any]) -> None:
        if self._worker is None:
            return
        try:
            pages = Pages(kv_caches, self._kv_cache_config.num_blocks)
            told = facts.layout_facts(self._vllm_config, pages.description, self._settings.model_digest)
        except (UnsupportedCacheError, UnidentifiableError) as error:
            _logger.warning("KV blocks are not shared: %s", error)
        else:
            self._worker.connect(pages, told)

    def get_handshake_metadata(self) -> VernalHandshake | None:
        layout = self._worker.layout if self._worker is not None else None
        return VernalHandshake(layout) if layout is not None else None

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None:
            self._worker.before_step()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._worker is not None:
            self._worker.start(self._plan())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: copies are in the device's queue before the forward pass."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing to do for one layer: a block is saved whole, after the forward pass."""

    def wait_for_save(self) -> None:
        if self._worker is not None:
            self._worker.save(self._plan())

    def get_finished(self, finished_req_ids: Iterable[str]) -> tuple[None, set[str]]:
        if self._worker is None:
            return None, set()
        idle = self.has_connector_metadata() and self._plan().idle
        return None, self._worker.finished(idle)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_invalid() if self._worker is not None else set()

    def build_connector_worker_meta(self) -> VernalWorkerMetadata | None:
        report = self._worker.take_report() if self._worker is not None else None
        return VernalWorkerMetadata([report]) if report is not None else None

    def _plan(self) -> StepPlan:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, VernalMetadata)
        return metadata.plan
