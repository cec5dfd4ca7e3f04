"""One request of each kind that compiles, allocates or loads something when the first of its kind comes.

Run before a freeze, so that all of it is in the checkpoint: else each thawed worker would stop for the first client
that wants logprobs (15 s on a CPU), and with it everybody else. The requests go through the server's application and so
through every process. A kind that this model or server does not have answers with an error, which is as good.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

_logger = logging.getLogger(__name__)
_SLOW_SECONDS = 0.5
_PROMPT = "A worker that is warm"
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": _SCHEMA}}

Body = dict[str, Any]
Application = Callable[..., Any]

COMPLETIONS: dict[str, Body] = {
    "plain": {},
    "streamed": {"stream": True, "stream_options": {"include_usage": True}},
    "logprobs": {"logprobs": 5},
    "prompt logprobs": {"prompt_logprobs": 1},
    "echo": {"echo": True, "logprobs": 1},
    "sampled": {"temperature": 1.0, "seed": 1},
    "top-k": {"temperature": 1.0, "top_k": 5},
    "top-p": {"temperature": 1.0, "top_p": 0.5},
    "top-k and top-p": {"temperature": 1.0, "top_k": 5, "top_p": 0.5},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    "logit bias": {"logit_bias": {"1": 1.0}},
    "min tokens": {"min_tokens": 2, "stop": ["\n"]},
    "bad words": {"bad_words": ["bad"]},
    "allowed tokens": {"allowed_token_ids": [1, 2, 3]},
    "several answers": {"n": 2, "temperature": 1.0},
    "JSON schema": {"structured_outputs": {"json": _SCHEMA}},
    "JSON object": {"structured_outputs": {"json_object": True}},
    "pattern": {"structured_outputs": {"regex": "[a-z]{2}"}},
    "choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "grammar": {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
}
"""What to ask `/v1/completions`, beside a prompt."""

CHATS: dict[str, Body] = {
    "chat": {},
    "chat, streamed": {"stream": True},
    "chat with logprobs": {"logprobs": True, "top_logprobs": 2},
    "chat with a schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}}},
    "chat with a tool": {"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "chat with tools": {"tools": [_TOOL]},
}
"""What to ask `/v1/chat/completions`, beside a message."""


def requests(model: str, adapters: list[str]) -> dict[str, tuple[str, Body]]:
    """What to ask, by kind: path and body."""
    found: dict[str, tuple[str, Body]] = {}
    greedy = {"model": model, "max_tokens": 2, "temperature": 0.0}
    message = {"messages": [{"role": "user", "content": _PROMPT}]}
    for kind, body in COMPLETIONS.items():
        found[kind] = ("/v1/completions", {**greedy, "prompt": _PROMPT, **body})
    for adapter in adapters:
        found[f"adapter {adapter}"] = ("/v1/completions", {**greedy, "prompt": _PROMPT, "model": adapter})
    for kind, body in CHATS.items():
        found[kind] = ("/v1/chat/completions", {**greedy, **message, **body})
    found["messages"] = ("/v1/messages", {**greedy, **message})
    found["response"] = ("/v1/responses", {"model": model, "input": _PROMPT, "max_output_tokens": 2, "store": False})
    found["tokens"] = ("/tokenize", {"model": model, "prompt": _PROMPT})
    found["text"] = ("/detokenize", {"model": model, "tokens": [1]})
    found["embedding"] = ("/v1/embeddings", {"model": model, "input": _PROMPT})
    found["pooling"] = ("/pooling", {"model": model, "input": _PROMPT})
    found["classification"] = ("/classify", {"model": model, "input": _PROMPT})
    found["score"] = ("/score", {"model": model, "text_1": _PROMPT, "text_2": _PROMPT})
    found["rerank"] = ("/rerank", {"model": model, "query": _PROMPT, "documents": [_PROMPT]})
    return found


async def run(app: Application, seconds: float) -> dict[str, float]:
    """Ask everything once, one after the other, in `seconds` at most; how long each kind took. Never raises: what is
    not warm is slow, and nothing else."""
    took: dict[str, float] = {}
    try:
        async with asyncio.timeout(seconds):
            async for kind, spent in _ask_all(app):
                took[kind] = spent
    except TimeoutError:
        _logger.warning("warming up took %g s and was given up; the rest compiles when it is asked for", seconds)
    except Exception:
        _logger.exception("warming up failed; what was not reached compiles when it is asked for")
    slow = ", ".join(f"{kind} {spent:.1f} s" for kind, spent in took.items() if spent >= _SLOW_SECONDS)
    _logger.info("warm after %.1f s: %d kinds of requests; slow: %s", sum(took.values()), len(took), slow or "none")
    return took


async def _ask_all(app: Application) -> AsyncIterator[tuple[str, float]]:
    models = json.loads(await _ask(app, "GET", "/v1/models", None))["data"]
    adapters = [model["id"] for model in models if model.get("parent")]
    for kind, (path, body) in requests(models[0]["id"], adapters).items():
        began = time.monotonic()
        try:
            await _ask(app, "POST", path, json.dumps(body).encode())
        except Exception as error:  # the application has answered, and lets its server know
            _logger.debug("%s: %s", kind, error)
        yield kind, time.monotonic() - began


async def _ask(app: Application, method: str, path: str, body: bytes | None) -> bytes:
    """One request to an ASGI application; its whole answer."""
    sent = False
    ended = asyncio.Event()
    answer = bytearray()

    async def receive() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            await ended.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            answer.extend(message.get("body", b""))
            if not message.get("more_body", False):
                ended.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"warm"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
    await app(scope, receive, send)
    return bytes(answer)
