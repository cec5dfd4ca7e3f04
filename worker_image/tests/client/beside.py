"""Everything that AsyncLLM and vLLM's OpenAI server over it do, and the same with CheckpointableAsyncLLM.

`beside.py CHECKPOINTS MODEL`. Both engines are made by vLLM's own factory, in one process; of the second it is told
that AsyncLLM is another class. The line `report` has what came of each case, by engine.
"""

import asyncio
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2  # what openai is built on
import openai
import uvicorn
from programs import ENGINE_ARGS
from vernal_worker.client import CheckpointableAsyncLLM
from vernal_worker.client import async_llm as ours
from vllm import AsyncEngineArgs, PoolingParams, SamplingParams
from vllm.entrypoints.launchers.api_server import entry
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine import async_llm

PROMPT = "A worker that has served before"
DRAWN = {"temperature": 1.0, "seed": 7}
Case = Callable[[Any], Awaitable[Any]]


def greedy(**options: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **options})


# --- AsyncLLM's methods, and its attributes ---


async def generate(llm: Any, params: SamplingParams, prompt: Any = PROMPT, **options: Any) -> Any:
    found = [output async for output in llm.generate(prompt, params, "r", **options)]
    if params.output_kind is RequestOutputKind.DELTA:
        return ["".join(output.outputs[0].text for output in found), found[-1].finished]
    last = found[-1]
    # Which of several come together depends on the reader.
    latest = {completion.index: completion for output in found for completion in output.outputs}
    outputs = [latest[index] for index in sorted(latest)]
    return {
        "request": [last.request_id, last.prompt, last.prompt_token_ids, last.finished, last.num_cached_tokens],
        "outputs": [[o.index, o.text, list(o.token_ids), o.finish_reason, o.stop_reason] for o in outputs],
        "logprobs": [_logprobs(o.logprobs) for o in outputs],
        "prompt_logprobs": _logprobs(last.prompt_logprobs),
    }


def _logprobs(positions: Any) -> Any:
    if positions is None:
        return None
    return [
        p and [[token, round(one.logprob, 3), one.rank, one.decoded_token] for token, one in p.items()]
        for p in positions
    ]


async def encode(llm: Any) -> Any:
    return [output async for output in llm.encode(PROMPT, PoolingParams(task="embed"), "r")]


async def add_request(llm: Any) -> Any:
    queue = await llm.add_request("r", PROMPT, greedy(output_kind=RequestOutputKind.FINAL_ONLY))
    output = await queue.get()
    queue.close()
    return [output.request_id, output.outputs[0].text]


async def abort(llm: Any) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        hold = Path(directory) / "hold"
        hold.touch()
        stream = llm.generate(PROMPT, greedy(max_tokens=512, extra_args={"hold": str(hold)}), "aborted")
        await anext(stream)
        await llm.abort(["aborted", "unknown"])
        reasons = [output.outputs[0].finish_reason async for output in stream]
    return reasons[-1]


async def paused(llm: Any) -> Any:
    await llm.pause_generation(mode="keep", clear_cache=False)
    waiting = asyncio.create_task(generate(llm, greedy()))
    during = await llm.is_paused()
    await llm.resume_generation()
    return [during, await waiting, await llm.is_paused()]


async def asleep(llm: Any) -> Any:
    found = [await llm.sleep(1), await llm.is_sleeping(), await llm.wake_up(["weights"]), await llm.is_sleeping()]
    return [*found, await llm.wake_up(), await llm.is_sleeping()]


async def is_tracing_enabled(llm: Any) -> Any:
    return await llm.is_tracing_enabled()


CALLS: dict[str, Case] = {
    "abort": abort,
    "add_lora": lambda llm: llm.add_lora(LoRARequest("adapter", 1, "/absent")),
    "add_request": add_request,
    "check_admission": lambda llm: _value(llm.check_admission(2, "r")),
    "check_health": lambda llm: llm.check_health(),
    "checkpoint_prepare": lambda llm: llm.checkpoint_prepare(),
    "checkpoint_restore": lambda llm: llm.checkpoint_restore(),
    "collective_rpc": lambda llm: llm.collective_rpc("check_health", timeout=60.0),
    "collective_rpc, unknown": lambda llm: llm.collective_rpc("no_such_method"),
    "compute_weight_checksums": lambda llm: llm.compute_weight_checksums(),
    "dead_error": lambda llm: _value([type(llm.dead_error).__name__, str(llm.dead_error)]),
    "do_log_stats": lambda llm: llm.do_log_stats(),
    "encode": encode,
    "errored": lambda llm: _value(llm.errored),
    "finish_weight_update": lambda llm: llm.finish_weight_update(),
    "generate": lambda llm: generate(llm, greedy()),
    "generate, several": lambda llm: generate(llm, greedy(n=2, logprobs=2, prompt_logprobs=1, **DRAWN)),
    "generate, differences": lambda llm: generate(llm, greedy(output_kind=RequestOutputKind.DELTA)),
    "generate, final": lambda llm: generate(llm, greedy(output_kind=RequestOutputKind.FINAL_ONLY)),
    "generate, tokens": lambda llm: generate(llm, greedy(), {"prompt_token_ids": [5, 9, 4]}),
    "generate, options": lambda llm: generate(llm, greedy(), priority=0, trace_headers={}, prompt_text="other"),
    "generate, stop": lambda llm: generate(llm, greedy(max_tokens=64, stop=["e", " "])),
    "generate, too long": lambda llm: generate(llm, greedy(), {"prompt_token_ids": [5] * 1025}),
    "generate, no such token": lambda llm: generate(llm, greedy(), {"prompt_token_ids": [10_000_000]}),
    "generate, no prompt": lambda llm: generate(llm, greedy(), {"prompt_token_ids": []}),
    "generate, no adapter": lambda llm: generate(llm, greedy(), lora_request=LoRARequest("adapter", 1, "/absent")),
    "generate, wrong schema": lambda llm: generate(llm, _structured({"type": "nothing"})),
    "get_kv_event_sources": lambda llm: _value(llm.get_kv_event_sources()),
    "get_num_queued_tokens": lambda llm: _value(llm.get_num_queued_tokens()),
    "get_num_unfinished_requests": lambda llm: _value(llm.get_num_unfinished_requests()),
    "get_status": lambda llm: llm.get_status(),
    "get_supported_tasks": lambda llm: llm.get_supported_tasks(),
    "get_tokenizer": lambda llm: _value(llm.get_tokenizer().encode(PROMPT)),
    "get_weight_version": lambda llm: llm.get_weight_version(),
    "init_weight_transfer_engine": lambda llm: llm.init_weight_transfer_engine(_init_request()),
    "is_paused": paused,
    "is_running": lambda llm: _value(llm.is_running),
    "is_sleeping": asleep,
    "is_stopped": lambda llm: _value(llm.is_stopped),
    "is_tracing_enabled": is_tracing_enabled,
    "list_loras": lambda llm: llm.list_loras(),
    "notify_kv_transfer_request_rejected": lambda llm: llm.notify_kv_transfer_request_rejected("r", {}),
    "pause_generation": paused,
    "pin_lora": lambda llm: llm.pin_lora(1),
    "release_kv_cache_memory": lambda llm: llm.release_kv_cache_memory(),
    "remove_lora": lambda llm: llm.remove_lora(1),
    "reset_encoder_cache": lambda llm: llm.reset_encoder_cache(),
    "reset_mm_cache": lambda llm: llm.reset_mm_cache(),
    "reset_prefix_cache": lambda llm: llm.reset_prefix_cache(),
    "resume_generation": lambda llm: llm.resume_generation(),
    "scale_elastic_ep": lambda llm: llm.scale_elastic_ep(1, 1),
    "shutdown_weight_transfer_engine": lambda llm: llm.shutdown_weight_transfer_engine(),
    "sleep": asleep,
    "start_draft_weight_update": lambda llm: llm.start_draft_weight_update(),
    "start_profile": lambda llm: llm.start_profile("../prefix"),
    "start_weight_update": lambda llm: llm.start_weight_update(),
    "stop_profile": lambda llm: llm.stop_profile(),
    "tokenizer": lambda llm: _value(type(llm.tokenizer).__name__),
    "update_weight_version": lambda llm: llm.update_weight_version("7"),
    "update_weight_version, then": lambda llm: llm.get_weight_version(),
    "update_weights": lambda llm: llm.update_weights(_update_request()),
    "wait_for_requests_to_drain": lambda llm: llm.wait_for_requests_to_drain(1),
    "wake_up": asleep,
    # Attributes.
    "input_processor": lambda llm: _value(type(llm.input_processor).__name__),
    "log_requests": lambda llm: _value(llm.log_requests),
    "log_stats": lambda llm: _value(llm.log_stats),
    "model_config": lambda llm: _value(repr(llm.model_config)),
    "observability_config": lambda llm: _value(repr(llm.observability_config)),
    "renderer": lambda llm: _value(type(llm.renderer).__name__),
    "scheduler_config": lambda llm: _value(repr(llm.scheduler_config)),
    "vllm_config": lambda llm: _value([llm.vllm_config.model_config is llm.model_config, _cache(llm.vllm_config)]),
}
"""By name of what is used, in this order."""


async def _value(value: Any) -> Any:
    return value


def _cache(config: Any) -> Any:
    return {name: value for name, value in vars(config.cache_config).items() if isinstance(value, (int, float, str))}


def _structured(schema: Any) -> SamplingParams:
    from vllm.sampling_params import StructuredOutputsParams

    return greedy(structured_outputs=StructuredOutputsParams(json=schema))


def _init_request() -> Any:
    from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

    return WeightTransferInitRequest(init_info={})


def _update_request() -> Any:
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

    return WeightTransferUpdateRequest(update_info={})


# --- vLLM's OpenAI server ---

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
MESSAGES = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Where is it warm?"}]
COMPLETE: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
CHAT: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}


async def complete(client: Any, **options: Any) -> Any:
    answer = await client.completions.create(**{**COMPLETE, **options})
    return [[_choice(choice) for choice in answer.choices], answer.usage.model_dump()]


def _choice(choice: Any) -> Any:
    return [choice.index, choice.text, choice.finish_reason, choice.logprobs and choice.logprobs.tokens]


async def stream(client: Any, **options: Any) -> Any:
    chunks = await client.completions.create(
        **{**COMPLETE, **options}, stream=True, stream_options={"include_usage": True}
    )
    text, usage, reasons = "", None, []
    async for chunk in chunks:
        text += "".join(choice.text for choice in chunk.choices)
        reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
        usage = chunk.usage or usage
    return [text, reasons, usage and usage.model_dump()]


async def chat(client: Any, **options: Any) -> Any:
    answer = await client.chat.completions.create(**{**CHAT, **options})
    (choice,) = answer.choices
    calls = [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or ()]
    return [choice.message.content, calls, choice.finish_reason, answer.usage.model_dump()]


async def chat_stream(client: Any, **options: Any) -> Any:
    chunks = await client.chat.completions.create(**{**CHAT, **options}, stream=True)
    text, arguments, names = "", "", []
    async for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                names += [call.function.name] if call.function.name else []
                arguments += call.function.arguments or ""
    return [text, names, arguments]


async def left(client: Any) -> Any:
    """A client that goes away, and one that comes after it."""
    chunks = await client.completions.create(
        **{**COMPLETE, "max_tokens": 512}, stream=True, extra_body={"ignore_eos": True}
    )
    async for _ in chunks:
        break
    await chunks.close()
    return await complete(client)


NAMED = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}, "max_tokens": 128}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
REQUESTS: dict[str, Case] = {
    "models": lambda client: _models(client),
    "completion": complete,
    "completion, several": lambda client: complete(client, n=2, logprobs=2, prompt=["x", PROMPT], **DRAWN),
    "completion, several greedy ones": lambda client: complete(client, n=2),
    "completion, streamed": stream,
    "completion, echo": lambda client: complete(client, echo=True),
    "chat": chat,
    "chat, streamed": chat_stream,
    "chat, logprobs": lambda client: chat(client, logprobs=True, top_logprobs=2),
    "tool, named": lambda client: chat(client, **NAMED),
    "tool, required": lambda client: chat(client, **{**NAMED, "tool_choice": "required"}),
    "tool, streamed": lambda client: chat_stream(client, **NAMED),
    "tool, auto": lambda client: chat(client, **{**NAMED, "tool_choice": "auto"}),
    "JSON schema": lambda client: chat(client, response_format=JSON_SCHEMA, max_tokens=128),
    "JSON schema, streamed": lambda client: chat_stream(client, response_format=JSON_SCHEMA, max_tokens=128),
    "choice": lambda client: complete(client, extra_body={"structured_outputs": {"choice": ["Paris", "Rome"]}}),
    "client that goes away": left,
    "unknown model": lambda client: complete(client, model="other"),
    "out of range": lambda client: complete(client, temperature=-1),
    "too long": lambda client: complete(client, prompt="x" * 100_000),
    "wrong schema": lambda client: complete(client, extra_body={"structured_outputs": {"json": {"type": "nothing"}}}),
    "embeddings of a model that generates": lambda client: client.embeddings.create(model="tiny", input="x"),
}


async def _models(client: Any) -> Any:
    return [[model.id, model.max_model_len] for model in (await client.models.list()).data]


@contextlib.asynccontextmanager
async def served(llm: Any, model: str, *more: str) -> AsyncIterator[Any]:
    """A client of vLLM's server over `llm`, which has `more` arguments."""
    options = [
        "--model",
        model,
        "--served-model-name",
        "tiny",
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
        *more,
    ]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(options)
    tasks = await llm.get_supported_tasks()
    app = build_app(args, tasks, llm.model_config)
    await init_app_state(llm, app.state, args, tasks)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    app.state.server = server
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done(), serving
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx2.AsyncClient(timeout=600.0, trust_env=False) as http:
        yield openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, http_client=http
        )
    server.should_exit = True
    await serving


async def outcome(name: str, case: Case, subject: Any) -> Any:
    print(name, file=sys.stderr, flush=True)
    try:
        return {"returned": await case(subject)}
    except Exception as error:
        return {"raised": [type(error).__name__, str(error)]}


async def look(llm: Any, model: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["attributes at once"] = await outcome("at once", CALLS["vllm_config"], llm)
    async with served(llm, model) as client:
        for name, case in REQUESTS.items():
            found[f"server: {name}"] = await outcome(name, case, client)
        metrics = await client.with_options(base_url=str(client.base_url).replace("/v1", "")).get(
            "/metrics", cast_to=str
        )
        found["server: metrics"] = sorted(
            {line.split("{")[0] for line in metrics.splitlines() if line.startswith("vllm:") and "_created" not in line}
        )
        generated = [line for line in metrics.splitlines() if line.startswith("vllm:generation_tokens_total")]
        found["server: tokens counted"] = [float(line.split()[-1]) > 100 for line in generated]
    for name, case in CALLS.items():
        found[f"call: {name}"] = await outcome(name, case, llm)
    return found


async def main(checkpoints: str, model: str) -> None:
    report = {}
    ours._SCRAPE_SECONDS = math.inf  # whoever cannot wait gets what the engine said last, at first nothing
    for name in ("AsyncLLM", "ours"):
        if name == "ours":
            os.environ |= {"VERNAL_START": "thaw", "VERNAL_CHECKPOINT_DIR": checkpoints}
            async_llm.AsyncLLM = CheckpointableAsyncLLM
        args = AsyncEngineArgs(model=model, **ENGINE_ARGS)
        async with entry.build_async_engine_client_from_engine_args(args) as llm:
            report[name] = await look(llm, model)
    print("report", json.dumps(report, default=plain), flush=True)
    os._exit(0)  # vLLM's engine may take long to go


def plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else repr(value)


if __name__ == "__main__":  # vLLM's children import this again
    asyncio.run(main(*sys.argv[1:]))
