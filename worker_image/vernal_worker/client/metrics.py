"""The engine's metrics in the program's registry, where AsyncLLM's are: what vLLM's server shows on /metrics."""

from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from vllm.v1.metrics.prometheus import unregister_vllm_metrics

_PREFIX = "vllm:"


class EngineMetrics(Collector):
    """Asks the engine whenever somebody looks. While it does not answer, as in a freeze, shows what it said last."""

    _name = _PREFIX
    """By which vLLM knows what to unregister when the program makes another engine."""

    def __init__(self, ask: Callable[[], str | None]) -> None:
        """`ask` returns Prometheus' text format, or None where there is no answer."""
        self._ask, self._last = ask, ""

    def describe(self) -> list[Metric]:
        """Nothing: the names are the engine's, and asking is for those who look."""
        return []

    def collect(self) -> Iterator[Metric]:
        text = self._ask()
        if text is not None:
            self._last = text
        for family in text_string_to_metric_families(self._last):
            if family.name.startswith(_PREFIX):
                yield family

    def register(self) -> None:
        """In the place of any other engine's, as AsyncLLM does."""
        unregister_vllm_metrics()
        REGISTRY.register(self)

    def unregister(self) -> None:
        """Again is fine."""
        if self in REGISTRY._collector_to_names:
            REGISTRY.unregister(self)
