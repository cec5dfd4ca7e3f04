"""Time to first token with and without the store, in the state of a worker that was thawed a moment ago.

That is an engine whose own prefix cache is empty, and whose connector was released and connected anew. Requests with a
prefix that another engine has stored and requests that are all new take turns.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_recovery.child import Child, connector

SHARED = 0.75


@dataclass(frozen=True)
class Setting:
    """`engine`: arguments of vllm.LLM; `tokens`: length of each prompt; `vocabulary`: token ids to draw from."""

    engine: dict[str, Any]
    environment: dict[str, str]
    tokens: int
    vocabulary: range
    extra: dict[str, Any]
    rounds: int = 6


def measure(setting: Setting, work: Path, say: Callable[[str], None]) -> float:
    """Prints medians and ratios; returns how many times as fast the first token is with the store."""
    draw = random.Random(75)
    shared = int(setting.tokens * SHARED)

    def text(count: int) -> list[int]:
        return draw.choices(setting.vocabulary, k=count)

    prefixes = [text(shared) for _ in range(setting.rounds + 1)]
    store, log = work / "ttft-store", work / "ttft-engine.log"
    extra = {"cooldown_seconds": 0, "lookup_timeout_seconds": 5, "load_timeout_seconds": 30} | setting.extra
    start = time.monotonic()
    producer = Child(setting.engine, connector(store, role="kv_producer", **extra), log, setting.environment)
    with producer:
        for prefix in prefixes:
            producer.run([prefix], 1)
        producer.lifecycle("flush")
    size = sum(file.stat().st_size for file in store.glob("*/*/*.kv"))
    say(
        f"{len(prefixes)} prefixes of {shared} tokens stored, {size / 2**30:.2f} GiB ({time.monotonic() - start:.0f} s)"
    )
    consumer = Child(setting.engine, connector(store, role="kv_consumer", **extra), log, setting.environment)
    with consumer:
        consumer.run([text(setting.tokens)], 1)  # the first run of a shape is slower
        consumer.run([text(setting.tokens - shared)], 1)
        consumer.lifecycle("release", "reconnect")
        without: list[float] = []
        with_store: list[float] = []
        loaded = 0.0
        for prefix in prefixes:
            without.append(consumer.run([text(setting.tokens)], 1).seconds)
            run = consumer.run([prefix + text(setting.tokens - shared)], 1)
            with_store.append(run.seconds)
            loaded += run.counted("loaded_tokens")
    if loaded < 0.9 * shared * len(prefixes):
        raise AssertionError(f"only {loaded:.0f} tokens were loaded")
    ratio = statistics.median(without) / statistics.median(with_store)
    say(
        f"first token of {setting.tokens} tokens, 75 % of them shared: {_ms(without)} without the store, "
        f"{_ms(with_store)} with it (median of {len(without)}): {ratio:.2f} times as fast; "
        f"the very first request {without[0] / with_store[0]:.2f} times"
    )
    return ratio


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms"
