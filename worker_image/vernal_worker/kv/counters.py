"""What the connector counts, as plain numbers that travel from each process to the one that serves /metrics."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

SEPARATOR = ":"
"""Between a counter's name and the value of its label, as in `load_failures:corrupt`."""

# Names; METRICS in `vernal_worker.kv.metrics` says what each means.
LOOKED_UP_TOKENS = "lookup_tokens"  # label: result, hit or miss
LOADED_TOKENS = "loaded_tokens"
RECOMPUTED_TOKENS = "recomputed_tokens"
DECLINED_TOKENS = "declined_tokens"
LOAD_FAILURES = "load_failures"  # label: kind, of blockfile.Failure
SAVES = "saves"  # label: outcome, of blockstore.Saved
BYTES = "bytes"  # label: direction, read or written
SECONDS = "seconds"  # label: operation, lookup, load or save
EVICTED_BLOCKS = "evicted_blocks"
PAUSES = "pauses"  # label: reason


class Counters:
    """Sums since the last `take`. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}

    def add(self, name: str, value: float = 1, label: str | None = None) -> None:
        key = name if label is None else name + SEPARATOR + label
        with self._lock:
            self._values[key] = self._values.get(key, 0) + value

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """Add the seconds that the block takes."""
        start = monotonic()
        try:
            yield
        finally:
            self.add(SECONDS, monotonic() - start, operation)

    def take(self) -> dict[str, float]:
        """What was counted since the last call."""
        with self._lock:
            values, self._values = self._values, {}
        return values


def added(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in left.keys() | right.keys()}
