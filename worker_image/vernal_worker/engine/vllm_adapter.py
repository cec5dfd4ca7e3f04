"""The one module that knows vLLM's Python API. Written for 0.26 to 0.33.

Where the two differ, the newer place is tried first: 0.27 and later moved the server's parts from
`vllm.entrypoints.openai` to `vllm.entrypoints.launchers`.
"""

import asyncio
import functools
import logging
import time
from argparse import Namespace
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy
import numpy.typing
from fastapi import FastAPI
from prometheus_client import generate_latest
from vernal_contract import decoding
from vllm import PoolingParams, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import ExplicitEncoderDecoderPrompt, TextPrompt, TokensPrompt
from vllm.model_executor.models import registry
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.prometheus import get_prometheus_registry

from vernal_worker.control.protocol import (
    Canary,
    EngineSpec,
    FromHelper,
    FromHostMemory,
    Load,
    StoredRank,
    Weights,
)
from vernal_worker.engine import load_signals, process, unfreezable, worker_extension
from vernal_worker.engine.connections import Limits
from vernal_worker.engine.server_arguments import make_arg_parser, validate_parsed_serve_args

try:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
except ModuleNotFoundError:  # 0.26
    from vllm.entrypoints.openai.api_server import build_app, init_app_state, validate_api_server_args

_CANARY_PROMPTS = 2
_CANARY_PROMPT_TOKENS = 12
_CANARY_ANSWER_TOKENS = 4  # each is a step that a thaw waits for, and wrong memory shows in the first ones
_CANARY_VALUES = 1024
_TONE_RATE = 16_000  # what models of speech are trained with: nothing need be resampled
_MOST_MARGIN = 1000.0  # a token that cannot come has a log probability of minus infinity
_EXIT_SECONDS = 3.0
_LOOK_SECONDS = 0.5
_T = TypeVar("_T")
"""For vLLM's processes to exit, of the time that a shutdown may take."""

_logger = logging.getLogger("vernal_worker.engine")


@dataclass
class Engine:
    """A loaded vLLM engine and its OpenAI application."""

    llm: AsyncLLM
    app: FastAPI
    seed: int | None
    """vLLM's --seed where the user gave one: then unseeded requests are meant to be reproducible."""
    limits: Limits
    """Of HTTP headers, where the user gave vLLM's options for them."""
    tasks: tuple[str, ...]
    """What the model can be asked for, in vLLM's words."""
    sleeps: bool
    """Whether vLLM's sleep mode is on: GPU memory can be dropped and come back at the same addresses."""
    unfreezable: str | None
    """Why it cannot be frozen, if its arguments do not say so already."""
    _weights: Weights | None = None
    """Where the weights are while the engine has no GPU memory; None while it is awake."""

    @property
    def errored(self) -> str | None:
        """Why the engine cannot serve any more."""
        return str(self.llm.dead_error) if self.llm.errored else None

    async def forget_grammars(self) -> None:
        """Leave the choice of a backend for structured output to the first request that comes now."""
        await self._answer(self.llm.engine_core.call_utility_async("vernal_forget_grammars"))

    async def store_weights(self, directory: str, piece: int) -> list[StoredRank]:
        """Write the weights to files in a directory, with a digest for each `piece` bytes.

        Raises:
            RuntimeError: a request is still running, or this engine cannot drop its GPU memory.
        """
        self._check_idle()
        if not self.sleeps:
            raise RuntimeError("the engine was started without sleep mode")
        count = self.llm.vllm_config.parallel_config.world_size
        saved = await self._answer(self.llm.collective_rpc("vernal_save_weights", args=(directory, piece, count)))
        return [decoding.convert(rank, StoredRank) for rank in saved]

    async def quiesce(self, weights: Weights) -> None:
        """Drop what need not be in a checkpoint, in all processes. With sleep mode that is all of the allocator's GPU
        memory.

        Raises:
            RuntimeError: a request is still running.
        """
        self._check_idle()
        if self.sleeps:
            self._weights = weights  # first: however far the rest comes, the engine is not awake
        await self._everywhere("vernal_release")  # before anything that resets a connector's cache
        await self._answer(self.llm.reset_prefix_cache())
        await self._answer(self.llm.reset_mm_cache())
        if self.sleeps:
            await self._answer(self.llm.sleep(2 if weights is Weights.IN_FILES else 1))
        await self._everywhere("vernal_quiesce")
        await asyncio.to_thread(process.trim)

    async def wake(self, source: FromHelper | FromHostMemory) -> None:
        """Undo what `quiesce` did to GPU memory.

        Raises:
            RuntimeError: the weights are not there.
        """
        if self._weights is Weights.IN_FILES and isinstance(source, FromHostMemory):
            raise RuntimeError("the weights were dropped: they must come from the helper or from files")
        if self._weights is not None:
            await self._fill(source)
        if self.llm.vllm_config.parallel_config.world_size > 1:
            await self._answer(self.llm.collective_rpc("vernal_connect"))
        self._weights = None

    async def _fill(self, source: FromHelper | FromHostMemory) -> None:
        adopted = isinstance(source, FromHelper)
        if isinstance(source, FromHelper):
            await self._answer(self.llm.collective_rpc("vernal_adopt", args=(source.socket,)))
        try:
            await self._answer(self.llm.wake_up())
        finally:
            if adopted:
                await self._answer(self.llm.collective_rpc("vernal_adopted"))

    def check_awake(self) -> None:
        """Raises: RuntimeError: the engine has no GPU memory, and can answer nobody."""
        if self._weights is not None:
            raise RuntimeError(f"the engine is not awake: its weights are {self._weights}")

    def _check_idle(self) -> None:
        if self.llm.output_processor.has_unfinished_requests():
            raise RuntimeError("a request is still running")

    async def resume(self, environment: dict[str, str], seed: int) -> None:
        await self._everywhere("vernal_resume", environment, seed)
        process.become(environment, seed)

    async def canary(self) -> Canary:
        """Greedy answers, or what the model's task gives instead, to prompts that depend on the vocabulary only. One
        after the other: in a batch they may be computed in another way each time, and tokens that are nearly as good as
        each other change places."""
        vocabulary = self.llm.model_config.get_vocab_size()
        length = min(_CANARY_PROMPT_TOKENS, self.llm.model_config.max_model_len // 2)
        prompts = [
            [(7919 * (number + 1) * (position + 1) + 31) % vocabulary for position in range(length)]
            for number in range(_CANARY_PROMPTS)
        ]
        if not {"generate", unfreezable.TRANSCRIPTION} & set(self.tasks):
            return Canary(prompts=prompts, vectors=[await self._pooled(n, prompt) for n, prompt in enumerate(prompts)])
        found = [await self._greedy(number, prompt) for number, prompt in enumerate(prompts)]
        return Canary(
            prompts=prompts, answers=[answer for answer, _ in found], margins=[margins for _, margins in found]
        )

    async def _greedy(self, number: int, prompt: list[int]) -> tuple[list[int], list[float]]:
        """An answer and its margins."""
        length = min(_CANARY_ANSWER_TOKENS, self.llm.model_config.max_model_len - len(prompt))
        allowed = self.llm.model_config.max_logprobs  # -1: as many as there are tokens
        two = 2 if allowed == -1 or allowed >= 2 else None
        parameters = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, detokenize=False, logprobs=two)
        answer: list[int] = []
        margins: list[float] = []
        asked: TokensPrompt | ExplicitEncoderDecoderPrompt = TokensPrompt(prompt_token_ids=prompt)
        if "generate" not in self.tasks:
            heard = TextPrompt(prompt="", multi_modal_data={"audio": _tone(number)})
            asked = ExplicitEncoderDecoderPrompt(encoder_prompt=heard, decoder_prompt=asked)
        async for output in self.llm.generate(asked, parameters, request_id=f"vernal-canary-{number}"):
            answer = list(output.outputs[0].token_ids)
            margins = [_margin(position) for position in output.outputs[0].logprobs or ()]
        return answer, margins

    async def _pooled(self, number: int, prompt: list[int]) -> list[float]:
        """What a model gives that pools instead of generating: an embedding, scores of classes.

        Raises:
            RuntimeError: it has no task that token ids can be given to.
        """
        if (task := next((task for task in unfreezable.POOLING_TASKS if task in self.tasks), None)) is None:
            raise RuntimeError(f"nothing among {', '.join(self.tasks)} can be asked with token ids")
        values: list[float] = []
        async for output in self.llm.encode(
            TokensPrompt(prompt_token_ids=prompt), PoolingParams(task=task), request_id=f"vernal-canary-{number}"
        ):
            values = output.outputs.data.float().flatten()[:_CANARY_VALUES].tolist()
        return values

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """The application's start and end. Entered before the freeze, because its start collects all garbage
        (0.4 s)."""
        return cast(AbstractAsyncContextManager[Any], self.app.router.lifespan_context(self.app))

    def load(self, in_flight: int, idle_seconds: float) -> Load:
        """How much there is to do, with `in_flight` requests of which the last ended `idle_seconds` ago."""
        unfinished = self.llm.output_processor.get_num_unfinished_requests()
        if not unfinished:
            load_signals.settle()
        config = self.llm.vllm_config
        places = config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size
        return load_signals.load(max(in_flight, unfinished), places, idle_seconds)

    def metrics(self) -> str:
        if not self.llm.output_processor.has_unfinished_requests():
            load_signals.settle()
        return generate_latest(get_prometheus_registry()).decode()

    async def shutdown(self, seconds: float) -> None:
        """Finish KV transfers, then stop vLLM's processes in order; those that do not stop within `seconds` are killed
        by vLLM."""
        began = time.monotonic()
        if self.llm.vllm_config.kv_transfer_config is not None:
            try:
                async with asyncio.timeout(max(0.0, seconds - _EXIT_SECONDS)):
                    await self._answer(self.llm.collective_rpc("vernal_finish_transfers"))
                _logger.info("KV transfers are finished after %.1f s", time.monotonic() - began)
            except TimeoutError:
                _logger.warning("KV transfers were not finished after %.1f s", time.monotonic() - began)
                return  # EngineCore waits for its workers and listens to nothing: whoever owns the tree ends it
        await self._answer(self.llm.engine_core.call_utility_async("vernal_unshield"))
        if (handler := self.llm.output_handler) is not None:  # EngineCore says goodbye, which it takes for a death
            handler.cancel()
            await asyncio.wait([handler])
        left = max(0.0, seconds - (time.monotonic() - began))
        await asyncio.to_thread(functools.partial(self.llm.shutdown, timeout=left))

    async def _everywhere(self, method: str, *arguments: Any) -> None:
        """Call a method of `worker_extension` in EngineCore and in every worker."""
        await self._answer(self.llm.collective_rpc(method, args=arguments))
        await self._answer(self.llm.engine_core.call_utility_async(method, *arguments))

    async def _answer(self, call: Awaitable[_T]) -> _T:
        """What a call of EngineCore returns. vLLM leaves a call that EngineCore died of, or died before, waiting.

        Raises:
            EngineDeadError: it has died.
        """
        answer = asyncio.ensure_future(call)
        try:
            while not answer.done():
                await asyncio.wait([answer], timeout=_LOOK_SECONDS)
                if self.llm.errored and not answer.done():
                    raise self.llm.dead_error
            return answer.result()
        finally:
            answer.cancel()


async def load(spec: EngineSpec) -> Engine:
    """Start vLLM and build its OpenAI application.

    Raises:
        SystemExit: an option is unknown or of the wrong form; argparse has said which on stderr.
        Exception: what vLLM raises when it cannot start.
    """
    if current_platform.is_cpu():
        _inspect_models_here()
    args = _parse(spec)
    _load_parsers(args)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    engine_args.worker_extension_cls = worker_extension.QUALIFIED_NAME
    engine_args.enable_sleep_mode = engine_args.enable_sleep_mode or spec.sleep_mode
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    llm = AsyncLLM.from_vllm_config(
        vllm_config=config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=engine_args.enable_log_requests,
        aggregate_engine_logging=engine_args.aggregate_engine_logging,
        disable_log_stats=engine_args.disable_log_stats,
    )
    tasks = await llm.get_supported_tasks()
    app = build_app(args, tasks, llm.model_config)
    await init_app_state(llm, app.state, args, tasks)
    sleeps = llm.model_config.enable_sleep_mode and not current_platform.is_cpu()
    return Engine(
        llm=llm,
        app=app,
        seed=args.seed if "--seed" in spec.serve_arguments else None,
        sleeps=sleeps,
        limits=_limits(args, spec),
        tasks=tuple(tasks),
        unfreezable=_unchecked(llm, tasks) or (await _loses_scales(llm) if sleeps else None),
    )


def _unchecked(llm: AsyncLLM, tasks: Sequence[str]) -> str | None:
    """See `unfreezable.unchecked`."""
    return unfreezable.unchecked(tasks, encoder_decoder=llm.model_config.is_encoder_decoder)


def _tone(number: int) -> tuple[numpy.typing.NDArray[numpy.float32], int]:
    """A second of sound, another one for each number, and its samples a second."""
    samples = 2 * numpy.pi * 220 * (number + 1) * numpy.arange(_TONE_RATE, dtype=numpy.float32) / _TONE_RATE
    return numpy.sin(samples, dtype=numpy.float32), _TONE_RATE


async def _loses_scales(llm: AsyncLLM) -> str | None:
    """See `unfreezable.loses_scales`."""
    config = llm.vllm_config
    return unfreezable.loses_scales(
        str(config.cache_config.cache_dtype),
        resets=any(await llm.collective_rpc("vernal_resets_scales")),
        calculated=bool(getattr(config.cache_config, "calculate_kv_scales", False)),
        quantization=[
            getattr(config.model_config.hf_config, "quantization_config", None),
            getattr(config.model_config.hf_config, "compression_config", None),
            vars(config.quant_config) if config.quant_config is not None else None,
        ],
    )


def _margin(position: Any) -> float:
    """Of the logprobs of one position: how far the best is ahead of the second."""
    best, second, *_ = sorted((one.logprob for one in position.values()), reverse=True)
    return min(round(float(best - second), 4), _MOST_MARGIN)


def _inspect_models_here() -> None:
    """vLLM has another process import the model's class and tell what it can do, so that its own main process does
    not touch CUDA. Without CUDA that is one more import of vLLM for nothing: a quarter of a cold start."""
    registry._run_in_subprocess = lambda ask: ask()


def _load_parsers(args: Namespace) -> None:
    """What `vllm serve` does with its options before it starts the engine.

    Raises:
        KeyError: there is no tool or reasoning parser of that name.
    """
    for plugin, manager, load_plugin in (
        (args.tool_parser_plugin, ToolParserManager, "import_tool_parser"),
        (args.reasoning_parser_plugin, ReasoningParserManager, "import_reasoning_parser"),
    ):
        if plugin:
            getattr(manager, load_plugin)(plugin)
    validate_api_server_args(args)


def _limits(args: Namespace, spec: EngineSpec) -> Limits:
    """vLLM has its own defaults for these two, which only h11 keeps to: not what runs there, nor here."""
    given = {}
    if "--h11-max-incomplete-event-size" in spec.serve_arguments:
        given["header_bytes"] = int(args.h11_max_incomplete_event_size)
    if "--h11-max-header-count" in spec.serve_arguments:
        given["header_count"] = int(args.h11_max_header_count)
    return Limits(**given)


def _parse(spec: EngineSpec) -> Namespace:
    # Not by a part of its name, by which the supervisor does not know an argument.
    parser = make_arg_parser(FlexibleArgumentParser(prog="engineArgs", allow_abbrev=False))
    arguments: Sequence[str] = (
        *("--model", spec.model),
        *("--served-model-name", *spec.served_model_names),
        *spec.serve_arguments,
    )
    args: Namespace = parser.parse_args(list(arguments))
    validate_parsed_serve_args(args)
    return args
