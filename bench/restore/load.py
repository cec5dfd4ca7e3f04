"""Throughput of workers under the same load, in turns."""

from __future__ import annotations

import random
import re
import statistics
import threading
import time
from collections.abc import Mapping

from measure import Pod

TURNS, SECONDS, CLIENTS, PROMPT, ANSWER = 7, 4.0, 48, 512, 128


class Load:
    """So many clients that ask one worker all the time, for a `with` statement."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod
        self._end = threading.Event()
        self._refused: list[bytes] = []
        self._threads = [threading.Thread(target=self._client, args=[number]) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def tokens_a_second(self) -> float:
        """Of prompts and answers, as vLLM counts them, for some seconds from now."""
        count, began = self._tokens(), time.monotonic()
        time.sleep(SECONDS)
        if self._refused:
            raise RuntimeError(f"{self._pod.name} refuses requests: {self._refused[0]!r}")
        return (self._tokens() - count) / (time.monotonic() - began)

    def _tokens(self) -> float:
        _, text = self._pod.ask("GET", "/metrics")
        names = r"vllm:(?:prompt|generation)_tokens_total"
        return sum(float(value) for value in re.findall(rf"^{names}{{[^}}]*}} (\S+)$", text.decode(), re.MULTILINE))

    def _client(self, number: int) -> None:
        draw = random.Random(number + time.time())  # no prompt has another's beginning
        while not self._end.is_set():
            body = {
                "model": "tiny",
                "prompt": draw.choices(range(150000), k=PROMPT),
                "max_tokens": ANSWER,
                "temperature": 0,
                "ignore_eos": True,
            }
            status, answer = self._pod.ask("POST", "/v1/completions", body)
            if status != 200:
                self._refused.append(answer)
                break


def compare(pods: Mapping[str, Pod]) -> dict[str, list[float]]:
    """Tokens a second of workers that take turns, by their names."""
    found: dict[str, list[float]] = {name: [] for name in pods}
    for turn in range(TURNS + 1):
        for name, pod in pods.items():
            if not pod.alive():
                raise RuntimeError(f"{pod.name} ended while it served:\n{pod.log()[-8000:]}")
            with Load(pod) as load:
                time.sleep(1.0)
                rate = load.tokens_a_second()
            if turn:  # the first one is for warming up
                found[name].append(round(rate))
    return found


def ratio(rates: list[float], others: list[float]) -> float:
    """Median of what each turn gave, of what the other's gave."""
    return statistics.median(a / b for a, b in zip(rates, others, strict=True))
