"""Requests of the OpenAI client, so many at once, one after the other, until they are told to stop."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from types import TracebackType
from typing import Self

import httpx2  # what openai is built on
import openai
from patience import GUARD_SECONDS

TOKENS = 256
PROMPTS = [f"A pool that has served {word}" for word in ("before", "many", "few", "none")]


@dataclass
class Answers:
    """What became of requests."""

    whole: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    texts: dict[str, set[str]] = field(default_factory=dict)

    def __add__(self, other: "Answers") -> "Answers":
        both = Answers(self.whole + other.whole, self.lost + other.lost)
        for prompt, texts in [*self.texts.items(), *other.texts.items()]:
            both.texts.setdefault(prompt, set()).update(texts)
        return both

    @property
    def asked(self) -> int:
        return self.whole + self.lost.total()

    @property
    def alike(self) -> bool:
        """Whether the same prompt had the same answer from every worker."""
        return all(len(found) == 1 for found in self.texts.values())


class Load:
    """`clients` streams at any time, each on a connection of its own, so that new workers get their part of them.

    Use as a context manager; `stop` lets each stream come to its end, and returns what became of all.
    """

    def __init__(self, base: str, model: str, clients: int) -> None:
        self._base, self._model, self._clients = base, model, clients
        self._over = Event()
        self._answers = Answers()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._done = self._pool.submit(asyncio.run, self._all())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._pool.shutdown()

    def alive(self) -> bool:
        """Whether it still asks. Raises what ended it, if something did."""
        if self._done.done():
            self._done.result()
        return not self._done.done()

    def stop(self) -> Answers:
        self._over.set()
        self._done.result(GUARD_SECONDS)
        return self._answers

    async def _all(self) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        async with (
            httpx2.AsyncClient(limits=limits, timeout=GUARD_SECONDS, trust_env=False) as http,
            openai.AsyncOpenAI(base_url=f"{self._base}/v1", api_key="none", max_retries=0, http_client=http) as client,
        ):
            await asyncio.gather(*(self._one(client, number) for number in range(self._clients)))

    async def _one(self, client: openai.AsyncOpenAI, number: int) -> None:
        while not self._over.is_set():
            await ask(client, self._model, PROMPTS[number % len(PROMPTS)], self._answers)


async def ask(client: openai.AsyncOpenAI, model: str, prompt: str, answers: Answers) -> None:
    """One stream, counted in `answers`."""
    text, reason, usage = "", None, None
    try:
        stream = await client.completions.create(
            model=model, prompt=prompt, max_tokens=TOKENS, temperature=0, stream=True,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
        )  # fmt: skip
        async for event in stream:
            usage = event.usage or usage
            for choice in event.choices:
                text += choice.text
                reason = choice.finish_reason or reason
    except (openai.OpenAIError, httpx2.HTTPError) as error:
        answers.lost[f"{type(error).__name__}: {error} ({error.__cause__!r})"] += 1
        return
    if reason == "length" and usage and usage.completion_tokens == TOKENS:
        answers.whole += 1
        answers.texts.setdefault(prompt, set()).add(text)
    else:
        answers.lost[f"ended by {reason}, {usage.completion_tokens if usage else 'no'} tokens"] += 1
