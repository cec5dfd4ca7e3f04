"""Time to first token with and without the store, in the state of a worker that was thawed a moment ago.

That is an engine whose own prefix cache is empty, and whose connector was released and connected anew. Requests with a
prefix that another engine has stored and requests that are all new take turns, alone or beside requests that decode.
The connector's options are its defaults but for time-outs, which are for machines that are not this slow.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patience import GUARD_SECONDS

from kv_recovery import spread
from kv_recovery.cases import Run
from kv_recovery.child import Child, connector

SHARED = 0.75
_CROWD_TOKENS = 128  # of the prompt of each request that decodes meanwhile


@dataclass(frozen=True)
class Setting:
    """
    Attributes:
        engine: arguments of vllm.LLM.
        tokens: length of each prompt.
        vocabulary: token ids to draw from.
        rounds: requests of each kind.
        in_flight: requests that decode meanwhile.
    """

    engine: dict[str, Any]
    environment: dict[str, str]
    tokens: int
    vocabulary: range
    rounds: int = 6
    in_flight: int = 0


def measure(setting: Setting, work: Path, say: Callable[[str], None]) -> float:
    """Prints medians and ratios; returns how many times as fast the first token is with the store."""
    test = Measurement(setting, work, say)
    with test.producer as producer:
        test.fill(producer)
    with test.consumer as consumer:
        return test.compare(consumer)


class Measurement:
    """`producer` and `consumer` are engines for a `with` statement: `fill` with the one, `compare` with the other."""

    def __init__(self, setting: Setting, work: Path, say: Callable[[str], None]) -> None:
        self._setting, self._say = setting, say
        self._draw = random.Random(75)
        self._shared = int(setting.tokens * SHARED)
        self._prefixes = [self._text(self._shared) for _ in range(setting.rounds)]
        self._crowd = [self._text(_CROWD_TOKENS) for _ in range(setting.in_flight)]
        self._store = work / f"ttft-store-{setting.in_flight}"
        extra: dict[str, Any] = {
            "cooldown_seconds": 0,
            "lookup_timeout_seconds": GUARD_SECONDS,
            "load_timeout_seconds": GUARD_SECONDS,
        }

        def child(role: str) -> Child:
            kv = connector(self._store, role=role, **extra)
            return Child(setting.engine, kv, work / f"ttft-{setting.in_flight}-{role}.log", setting.environment)

        self.producer, self.consumer = child("kv_producer"), child("kv_consumer")

    def fill(self, producer: Child) -> None:
        start = time.monotonic()
        for prefix in self._prefixes:
            producer.run([prefix], 1)
        size = sum(file.stat().st_size for file in self._store.glob("*/*/*.kv"))
        self._say(
            f"{len(self._prefixes)} prefixes of {self._shared} tokens stored, {size / 2**30:.2f} GiB "
            f"({time.monotonic() - start:.0f} s)"
        )

    def compare(self, consumer: Child) -> float:
        """Requests with and without a stored prefix take turns.

        Raises:
            AssertionError: the prefixes were not loaded.
        """
        tokens, shared = self._setting.tokens, self._shared
        self._first(consumer, tokens)  # the first run of a shape is slower
        self._first(consumer, tokens - shared)
        consumer.lifecycle("release", "reconnect")
        without: list[float] = []
        with_store: list[float] = []
        loaded = 0.0
        for prefix in self._prefixes:
            without.append(self._first(consumer, tokens).seconds)
            run = self._first(consumer, tokens - shared, prefix)
            with_store.append(run.seconds)
            loaded += run.counted("loaded_tokens")
        if loaded < 0.9 * shared * len(self._prefixes):
            raise AssertionError(f"only {loaded:.0f} tokens were loaded")
        ratio = statistics.median(without) / statistics.median(with_store)
        beside = f"beside {len(self._crowd)} requests that decode" if self._crowd else "engine idle"
        self._say(f"first token of {tokens} tokens, 75 % of them shared, {beside}, default options:")
        self._say(spread.row("without the store", without))
        self._say(spread.row("with it", with_store))
        self._say(f"{ratio:.2f} times as fast (medians); the very first request {without[0] / with_store[0]:.2f} times")
        return ratio

    def _first(self, child: Child, new: int, prefix: Sequence[int] = ()) -> Run:
        """A request for one token, with `new` tokens that nobody has seen behind `prefix`."""
        return child.run([[*prefix, *self._text(new)]], 1, beside=self._crowd)

    def _text(self, count: int) -> list[int]:
        return self._draw.choices(self._setting.vocabulary, k=count)
