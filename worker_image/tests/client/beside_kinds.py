"""vLLM's OpenAI server over AsyncLLM and over CheckpointableAsyncLLM, as `beside.py`, of other kinds of models: one
that embeds, one that has adapters, and one that sees images.

`beside_kinds.py DIRECTORY KIND`. The model is made in the directory. The line `report` has what came of each case, by
engine.
"""

import asyncio
import base64
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import PIL.Image
from beside import PROMPT, Case, chat, chat_stream, complete, greedy, outcome, plain, served
from engines.kinds import RANK, make
from engines.questions import png
from programs import ENGINE_ARGS
from vernal_worker.client import CheckpointableAsyncLLM
from vllm import AsyncEngineArgs, PoolingParams
from vllm.entrypoints.launchers.api_server import entry
from vllm.lora.request import LoRARequest
from vllm.v1.engine import async_llm

TEXTS = [PROMPT, "need not learn again", "how to serve"]
ADAPTERS = "adapters"


async def embedded(client: Any, given: Any, **options: Any) -> Any:
    answer = await client.embeddings.create(model="tiny", input=given, **options)
    return [[found.index, found.embedding] for found in answer.data], answer.usage.model_dump()


async def encode(llm: Any, **options: Any) -> Any:
    found = [output async for output in llm.encode(PROMPT, PoolingParams(task="embed", **options), "r")]
    return [[output.request_id, output.finished, output.outputs.data.tolist()] for output in found]


def seen(*colours: int) -> list[dict[str, Any]]:
    """Of a chat: images of these colours, and a question."""
    return shown(*(f"data:image/png;base64,{base64.b64encode(png(colour)).decode()}" for colour in colours))


def shown(*urls: str) -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": "What is it?"}]}]


async def adapter(client: Any, verb: str, **body: Any) -> str:
    answer: str = await client.post(f"/{verb}_lora_adapter", body=body, cast_to=str)
    return answer


async def raw(llm: Any, colour: int) -> Any:
    """An image that the engine renders."""
    image = PIL.Image.open(io.BytesIO(png(colour))).convert("RGB")
    return await text(llm, {"prompt": "<image>What is it?", "multi_modal_data": {"image": image}})


async def text(llm: Any, prompt: Any = PROMPT, **options: Any) -> str:
    found: str = (await _last(llm.generate(prompt, greedy(), "r", **options)))[-1].outputs[0].text
    return found


async def models(client: Any) -> Any:
    return sorted(model.id for model in (await client.models.list()).data)


def _chat(*colours: int, **more: Any) -> Case:
    return lambda client: chat(client, **{"messages": seen(*colours), "extra_body": {"ignore_eos": True}, **more})


EMBEDS: dict[str, Case] = {
    "one text": lambda client: embedded(client, TEXTS[0]),
    "several texts": lambda client: embedded(client, TEXTS),
    "token ids": lambda client: embedded(client, list(range(20, 60))),
    "bytes": lambda client: embedded(client, TEXTS[0], encoding_format="base64"),
    "too long": lambda client: embedded(client, "x" * 100_000),
    "dimensions that it has not": lambda client: embedded(client, TEXTS[0], dimensions=7),
    "a completion": complete,
    "a chat": chat,
}
EMBEDS_CALLS: dict[str, Case] = {
    "encode": encode,
    "encode, not normalized": lambda llm: encode(llm, use_activation=False),
    "encode, no such task": lambda llm: refused(llm.encode(PROMPT, PoolingParams(task="nothing"), "r")),
    "generate": lambda llm: _last(llm.generate(PROMPT, greedy(), "r")),
    "get_supported_tasks": lambda llm: tasks(llm),
}
SEES: dict[str, Case] = {
    "an image": _chat(3),
    "another image": _chat(5),
    "the first again": _chat(3),
    "an image, streamed": lambda client: chat_stream(client, messages=seen(3), extra_body={"ignore_eos": True}),
    "no image": chat,
    "too many images": _chat(3, 5, 7),
    "what is no image": lambda client: chat(
        client,
        messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,x"}}]}
        ],
    ),
}
SEES_CALLS: dict[str, Case] = {
    "a raw image": lambda llm: raw(llm, 3),
    "another raw image": lambda llm: raw(llm, 5),
    "reset_mm_cache": lambda llm: llm.reset_mm_cache(),
    "a raw image then": lambda llm: raw(llm, 3),
}
ADAPTS: dict[str, Case] = {
    "models": models,
    "base": complete,
    "adapter 0": lambda client: complete(client, model="adapter-0"),
    "load": lambda client: adapter(client, "load", lora_name="late", lora_path=f"{ADAPTERS}/1"),
    "models then": models,
    "late": lambda client: complete(client, model="late"),
    "load again": lambda client: adapter(client, "load", lora_name="late", lora_path=f"{ADAPTERS}/1"),
    "load what is not there": lambda client: adapter(client, "load", lora_name="no", lora_path=f"{ADAPTERS}/none"),
    "unload": lambda client: adapter(client, "unload", lora_name="late"),
    "late, unloaded": lambda client: complete(client, model="late"),
}
ADAPTS_CALLS: dict[str, Case] = {
    "generate": lambda llm: text(llm, lora_request=LoRARequest("other", 7, f"{ADAPTERS}/1")),
    "list_loras": lambda llm: llm.list_loras(),
    "add_lora": lambda llm: llm.add_lora(LoRARequest("third", 8, f"{ADAPTERS}/0")),
    "pin_lora": lambda llm: llm.pin_lora(8),
    "remove_lora": lambda llm: llm.remove_lora(8),
    "add_lora, not there": lambda llm: llm.add_lora(LoRARequest("no", 9, f"{ADAPTERS}/none")),
    "list_loras then": lambda llm: llm.list_loras(),
}
KINDS: dict[str, tuple[str, dict[str, Any], list[str], dict[str, Case], dict[str, Case]]] = {
    "embeds": ("llama", {"runner": "pooling", "convert": "embed"}, [], EMBEDS, EMBEDS_CALLS),
    "adapts": (
        "llama with adapters",
        {"enable_lora": True, "max_lora_rank": RANK, "max_loras": 2},
        ["--enable-lora", "--lora-modules", f"adapter-0={ADAPTERS}/0"],
        ADAPTS,
        ADAPTS_CALLS,
    ),
    "sees": ("llava", {"limit_mm_per_prompt": {"image": 2}}, [], SEES, SEES_CALLS),
}
"""What is made, the engine's arguments, the server's, and the cases of its client and of its engine."""


async def tasks(llm: Any) -> list[str]:
    """Which vLLM has in any order."""
    return sorted(await llm.get_supported_tasks())


async def refused(outputs: Any) -> str:
    """The class alone: the message has what there is in any order."""
    try:
        await _last(outputs)
    except Exception as error:
        return type(error).__name__
    return "answered"


async def _last(outputs: Any) -> Any:
    return [output async for output in outputs]


async def main(directory: str, kind: str) -> None:
    maker, arguments, options, requests, calls = KINDS[kind]
    model = Path(directory) / "model"
    make(maker, model)
    os.chdir(model)  # adapters are named from here, and so alike in messages
    os.environ |= {"VERNAL_START": "cold", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    report: dict[str, dict[str, Any]] = {}
    for name in ("AsyncLLM", "ours"):
        if name == "ours":
            async_llm.AsyncLLM = CheckpointableAsyncLLM
        args = AsyncEngineArgs(model=str(model), **{**ENGINE_ARGS, **arguments})
        async with entry.build_async_engine_client_from_engine_args(args) as llm:
            found = report[name] = {}
            async with served(llm, str(model), *options) as client:
                for case, ask in requests.items():
                    found[f"server: {case}"] = await outcome(case, ask, client)
            for case, ask in calls.items():
                found[f"call: {case}"] = await outcome(case, ask, llm)
    print("report", json.dumps(report, default=plain), flush=True)
    os._exit(0)  # vLLM's engine may take long to go


if __name__ == "__main__":  # vLLM's children import this again
    asyncio.run(main(*sys.argv[1:]))
