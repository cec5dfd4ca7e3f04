"""A thawed worker's HTTP surface beside `vllm serve`: the same routes, the same answer to each kind of error."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from patience import GUARD_SECONDS, until
from shutdown.alone import Server
from worker_pod import HELD, Pod

Thawed = Callable[..., Pod]
CHANGES = [
    (re.compile(rb'"created(_at)?":\s*[\d.]+'), b'"created":0'),
    (re.compile(rb"[0-9a-f]{16,32}"), b"ID"),
    (re.compile(rb"at line \d+, in [^\"]*"), b""),
]
"""What differs between any two answers."""


@dataclass
class _Made:
    """What `Server` wants of `shutdown.workers.Workers`."""

    model: Path
    store: Path
    logs: Path

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def keep(self, pod: Pod) -> None: ...


@pytest.fixture(scope="module")
def alone(model: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = Server(_Made(model, store, tmp_path_factory.mktemp("alone")), "alone")  # type: ignore[arg-type]
    yield server
    server.end()


@pytest.fixture(scope="module")
def worker(creator: Pod, store: Path, start_pod_for_session: Callable[..., Pod], alone: Server) -> Pod:
    pod = start_pod_for_session(store)
    assert pod.wait_ready().start_mode == "Restored", pod.log()
    alone.wait_healthy()
    return pod


def schema(pod: Pod) -> Any:
    """All routes, with what they take and give."""
    return json.loads(pod.ask("GET", "/openapi.json")[1])


def ask(pod: Pod, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, bytes]:
    connection = pod.http()
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    for pattern, value in CHANGES:
        data = pattern.sub(value, data)
    return answer.status, answer.headers.get("Content-Type", ""), data


JSON = {"Content-Type": "application/json"}


def test_the_routes_are_the_same(worker: Pod, alone: Server) -> None:
    theirs = schema(alone)
    # Schemas of components have longer names where another of the same name was imported, which our process does.
    assert len(theirs["paths"]) > 20 and schema(worker)["paths"] == theirs["paths"]


COMPLETE = {"model": "tiny", "prompt": "x", "max_tokens": 2, "temperature": 0}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "temperature": 0}
ERRORS: dict[str, tuple[str, Any]] = {
    "unknown model": ("/v1/completions", COMPLETE | {"model": "other"}),
    "no such field": ("/v1/completions", COMPLETE | {"no_such_field": 1}),
    "wrong type": ("/v1/completions", COMPLETE | {"max_tokens": "many"}),
    "out of range": ("/v1/completions", COMPLETE | {"temperature": -1}),
    "too many logprobs": ("/v1/completions", COMPLETE | {"logprobs": 10_000}),
    "too long": ("/v1/completions", COMPLETE | {"prompt": "x" * 100_000}),
    "too many tokens": ("/v1/completions", COMPLETE | {"max_tokens": 10_000_000}),
    "no messages": ("/v1/chat/completions", CHAT | {"messages": []}),
    "wrong role": ("/v1/chat/completions", CHAT | {"messages": [{"role": 7}]}),
    "wrong pattern": ("/v1/completions", COMPLETE | {"structured_outputs": {"regex": "(("}}),
    "wrong schema": ("/v1/completions", COMPLETE | {"structured_outputs": {"json": {"type": "nothing"}}}),
    "wrong grammar": ("/v1/completions", COMPLETE | {"structured_outputs": {"grammar": "root ::= absent"}}),
    "two constraints": ("/v1/completions", COMPLETE | {"structured_outputs": {"regex": "a", "choice": ["a"]}}),
    "streamed error": ("/v1/completions", COMPLETE | {"stream": True, "temperature": -1}),
    "stream options": ("/v1/completions", COMPLETE | {"stream_options": {"include_usage": True}}),
    "tool without parser": (
        "/v1/chat/completions",
        CHAT | {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
    ),
    "unknown adapter": ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/absent"}),
    "wrong token ids": ("/detokenize", {"model": "tiny", "tokens": [-1]}),
    "Anthropic's": ("/v1/messages", {"model": "tiny", "messages": [], "max_tokens": 1}),
    "responses": ("/v1/responses", {"model": "other", "input": "x"}),
    "previous response": ("/v1/responses", {"model": "tiny", "input": "x", "previous_response_id": "resp_absent"}),
    "served": ("/v1/completions", COMPLETE),
    "served chat": ("/v1/chat/completions", CHAT),
    "served with logprobs": ("/v1/completions", COMPLETE | {"logprobs": 2, "prompt_logprobs": 1}),
    "tokenized": ("/tokenize", {"model": "tiny", "prompt": "x"}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_each_kind_of_error_is_vllms(worker: Pod, alone: Server, name: str) -> None:
    path, body = ERRORS[name]
    ours, theirs = (ask(pod, "POST", path, json.dumps(body).encode(), **JSON) for pod in (worker, alone))
    assert ours == theirs


def test_each_route_takes_nonsense_as_vllm_does(worker: Pod, alone: Server) -> None:
    paths = schema(alone)["paths"]
    skipped = {"/metrics", "/openapi.json"}  # tells of the process
    different = []
    for path in sorted(paths):
        if path in skipped:
            continue
        for method in ("GET", "POST", "PUT", "OPTIONS"):
            for body in (None, b"{}", b"{", b"[]"):
                ours, theirs = (
                    ask(pod, method, path.replace("{", "").replace("}", ""), body, **JSON) for pod in (worker, alone)
                )
                if ours != theirs:
                    different.append((method, path, body, ours, theirs))
    assert different == []


@pytest.mark.parametrize("path", ["/nope", "/v1/nope", "/v1/models/other", "//", "/v1/completions/"])
def test_unknown_paths(worker: Pod, alone: Server, path: str) -> None:
    ours, theirs = (ask(pod, "GET", path) for pod in (worker, alone))
    assert ours == theirs


def running(pod: Pod) -> bool:
    text = pod.ask("GET", "/metrics")[1].decode()
    return re.search(r"^vllm:num_requests_running\{.*\} [1-9]", text, re.MULTILINE) is not None


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_engine_is_told_as_vllm_does(thawed: Thawed, alone: Server, stream: bool) -> None:
    """The last ones: they end both. What is under way gets vLLM's own error, and is not cut off."""
    pods = [thawed(), alone] if stream else [thawed()]
    answers: list[tuple[int, str, bytes]] = []
    held = COMPLETE | {"max_tokens": 64, "ignore_eos": True, "stream": stream, "vllm_xargs": {"hold": HELD}}
    for pod in pods:
        pod.hold()

        def answered(pod: Pod = pod) -> None:
            answers.append(ask(pod, "POST", "/v1/completions", json.dumps(held).encode(), **JSON))

        thread = threading.Thread(target=answered)
        thread.start()
        until("a request that runs", partial(running, pod), more=pod.log)
        (core,) = [pid for pid, command in pod.processes().items() if "EngineCore" in command]
        os.kill(core, signal.SIGKILL)
        thread.join(GUARD_SECONDS)
    for status, _, data in answers:
        assert status == (200 if stream else 500)
        error = data.rpartition(b"data: [DONE]")[0].rstrip().rpartition(b"data: ")[2] if stream else data
        found = json.loads(error)["error"]
        assert (found["type"], found["code"]) == ("InternalServerError", 500), data[-300:]
        assert "EngineCore" in found["message"]
