"""AsyncLLM and CheckpointableAsyncLLM in turns: tokens a second of 64 streams, milliseconds to the first of one stream.

`throughput.py CHECKPOINTS MODEL [ARGUMENTS [TOKENS]]`: the engine's arguments as JSON (default: those of tests on a
CPU), and how many tokens each of the 64 streams has. The line `ratio` is the median of the ratios of neighbouring
turns; `first token` has the medians of neighbouring turns' medians, the median of their differences, and the quartiles
of these.
"""

import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from typing import Any

from programs import ENGINE_ARGS
from vernal_worker.client import CheckpointableAsyncLLM
from vllm import AsyncEngineArgs, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

STREAMS, TOKENS, TURNS = 64, 48, 9
PAIRS, REQUESTS = 12, 40
"""Turns of each engine, and requests for one token in a turn, one after the other."""
SPIN_SECONDS = 1.2
"""vLLM's worker polls at full speed for a second after its last step, which the other's turn would pay for: on two
cores there is none left then for the processes in front of it."""
_numbers = itertools.count()


async def one(llm: Any, tokens: int) -> int:
    """One stream, as a server reads it: each output as it comes. Returns how many tokens it had."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    tokens = 0
    prompt = {"prompt_token_ids": [7, 11, 13, next(_numbers) % 500 + 5]}
    async for output in llm.generate(prompt, params, f"throughput-{next(_numbers)}"):
        tokens = len(output.outputs[0].token_ids)
    return tokens


async def turn(llm: Any, each: int) -> float:
    await asyncio.sleep(SPIN_SECONDS)
    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(llm, each) for _ in range(STREAMS))))
    assert tokens == STREAMS * each
    return tokens / (time.perf_counter() - began)


async def first_token(llm: Any) -> float:
    """Milliseconds from the call to the output: a turn's median, without the first, which wakes the worker up."""
    await asyncio.sleep(SPIN_SECONDS)
    taken = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        assert await one(llm, 1) == 1
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken[1:])


async def main(checkpoints: str, model: str, arguments: str = "", tokens: str = str(TOKENS)) -> None:
    engine_args, each = json.loads(arguments) if arguments else ENGINE_ARGS, int(tokens)
    plain = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **engine_args))
    async with await CheckpointableAsyncLLM.thaw(checkpoints) as ours:
        for llm in (plain, ours):
            await turn(llm, each)  # the first one compiles and fills caches
        ratios = []
        for number in range(TURNS):
            order = (plain, ours) if number % 2 else (ours, plain)
            speed = {llm: await turn(llm, each) for llm in order}
            ratios.append(speed[ours] / speed[plain])
            print(f"turn {number}: AsyncLLM {speed[plain]:.0f} tokens/s, ours {speed[ours]:.0f} tokens/s")
        first: dict[Any, list[float]] = {plain: [], ours: []}
        for number in range(PAIRS):
            for llm in (plain, ours) if number % 2 else (ours, plain):
                first[llm].append(await first_token(llm))
        more = [mine - theirs for mine, theirs in zip(first[ours], first[plain], strict=True)]
        low, middle, high = statistics.quantiles(more, n=4)
        of = {llm: statistics.median(milliseconds) for llm, milliseconds in first.items()}
        difference = f"{middle:+.2f} ms ({low:+.2f} to {high:+.2f})"
        print(f"first token: AsyncLLM {of[plain]:.2f} ms, ours {of[ours]:.2f} ms; {difference}")
        print(f"ratio {statistics.median(ratios):.3f}", flush=True)
    plain.shutdown(timeout=0)
    sys.stdout.flush()
    os._exit(0)  # vLLM's engine may take long to go


if __name__ == "__main__":  # vLLM's children import this again
    asyncio.run(main(*sys.argv[1:]))
