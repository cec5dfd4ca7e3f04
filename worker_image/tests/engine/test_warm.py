"""Warming up goes through the application, is bounded, and never fails a freeze."""

import asyncio
import json
from typing import Any

import pytest
from vernal_worker.engine import warm

MODELS = {"data": [{"id": "base", "parent": None}, {"id": "poet", "parent": "base"}]}


class Application:
    """Answers as vLLM does; some kinds are not there, one raises after its answer, one hangs."""

    def __init__(self, hangs: str | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.hangs = hangs
        self.given_up = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        path, body = scope["path"], json.loads(message["body"] or b"{}")
        assert not message["more_body"]
        if scope["method"] == "POST":
            self.asked.append((path, body))
        if path == self.hangs:
            try:
                assert (await receive())["type"] == "http.disconnect"  # never: the answer is not complete
            except asyncio.CancelledError:
                self.given_up = True
                raise
        status = 404 if path == "/score" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        data = json.dumps(MODELS).encode() if path == "/v1/models" else b"{}"
        await send({"type": "http.response.body", "body": data[:5], "more_body": True})
        await send({"type": "http.response.body", "body": data[5:]})
        if path == "/tokenize":
            raise RuntimeError("after the answer")


async def test_each_kind_is_asked_once_and_adapters_too() -> None:
    app = Application()
    took = await warm.run(app, 300.0)
    assert {*warm.COMPLETIONS, *warm.CHATS, "adapter poet", "rerank", "score", "text"} <= took.keys()
    assert len(app.asked) == len(took)
    assert [body["model"] for _, body in app.asked].count("poet") == 1
    assert all(body.get("max_tokens", 2) == 2 for _, body in app.asked), "they cost next to nothing"


async def test_what_hangs_is_given_up() -> None:
    app = Application(hangs="/v1/messages")
    took = await warm.run(app, 2.0)
    assert app.given_up and "plain" in took and "messages" not in took


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"data": []}'])
async def test_a_server_without_models_is_no_error(answer: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    assert await warm.run(app, 300.0) == {}
