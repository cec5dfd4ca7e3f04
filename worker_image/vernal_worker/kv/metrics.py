"""The connector's counters in vLLM's own statistics: through the scheduler to the process that serves /metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from vernal_worker.kv import counters
from vernal_worker.kv.counters import SEPARATOR


@dataclass(frozen=True)
class Metric:
    """A Prometheus counter `vernal_kv_<name>_total` with one label at most."""

    name: str
    documentation: str
    label: str | None = None


METRICS = (
    Metric(
        counters.LOOKED_UP_TOKENS,
        "Prompt tokens in full blocks that were looked up in the shared KV store.",
        "result",
    ),
    Metric(counters.LOADED_TOKENS, "Tokens whose KV was loaded from the shared store, verified."),
    Metric(
        counters.RECOMPUTED_TOKENS,
        "Tokens that were to be loaded from the shared KV store and were computed instead.",
    ),
    Metric(
        counters.DECLINED_TOKENS,
        "Tokens that the shared KV store had and that were computed, because loading was expected to take longer.",
    ),
    Metric(counters.LOAD_FAILURES, "Blocks that could not be loaded from the shared KV store.", "kind"),
    Metric(counters.SAVES, "Blocks that were to be saved to the shared KV store.", "outcome"),
    Metric(counters.BYTES, "Bytes of KV moved between the engine and the shared store.", "direction"),
    Metric(counters.SECONDS, "Seconds spent on the shared KV store; those of saves add up over threads.", "operation"),
    Metric(counters.EVICTED_BLOCKS, "Blocks that this worker removed from the shared KV store."),
    Metric(
        counters.PAUSES,
        "Times that the shared KV store was left alone for a while, because it was slow, full or failing.",
        "reason",
    ),
)


@dataclass
class VernalKVStats(KVConnectorStats):  # type: ignore[misc]
    """`data` holds sums by `name` or `name:label`, all since the last time."""

    data: dict[str, Any] = field(default_factory=dict)

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        self.data = counters.added(self.data, other.data)
        return self

    def reduce(self) -> dict[str, int | float]:
        return {key: round(value, 3) for key, value in sorted(self.data.items())}

    def is_empty(self) -> bool:
        return not self.data


class VernalKVPromMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """Prometheus counters, labelled as vLLM's own (model, engine) and by what `Metric.label` says."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters = {
            metric.name: self._counter_cls(
                name=f"vernal_kv_{metric.name}",
                documentation=metric.documentation,
                labelnames=[*labelnames, *([metric.label] if metric.label else [])],
            )
            for metric in METRICS
        }

    def observe(self, transfer_stats_data: Mapping[str, float], engine_idx: int = 0) -> None:
        for key, value in transfer_stats_data.items():
            name, _, label = key.partition(SEPARATOR)
            labels = [*self.per_engine_labelvalues[engine_idx], *([label] if label else [])]
            self._counters[name].labels(*labels).inc(value)
