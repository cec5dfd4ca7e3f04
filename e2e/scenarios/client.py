"""Requests to a worker's OpenAI API: one greedy answer, a stream that can be held, and the moment of a pod's first
token."""

import http.client
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from patience import GUARD_SECONDS

from scenarios.kube import Kube

PROMPT = "the quick brown fox"
ANSWER_TOKENS = 16
STREAM_TOKENS = 64
HELD = "/tmp/held"


def hold(kube: Kube, pod: str) -> None:
    """Have the streams to a pod that begin from now on stay in flight until `release`."""
    kube.run("exec", pod, "-c", "worker", "--", "touch", HELD)


def release(kube: Kube, pod: str) -> None:
    kube.run("exec", pod, "-c", "worker", "--", "rm", "-f", HELD)


def _post(url: str, body: dict[str, Any], timeout: float) -> http.client.HTTPResponse:
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    connection.request("POST", parts.path, json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def greedy(base: str, model: str, prompt: str = PROMPT, tokens: int = ANSWER_TOKENS) -> str:
    """The whole greedy answer.

    Raises:
        RuntimeError: any status but 200.
    """
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    response = _post(f"{base}/v1/completions", body, timeout=GUARD_SECONDS)
    data = response.read()
    if response.status != 200:
        raise RuntimeError(f"HTTP {response.status}: {data[:300].decode(errors='replace')}")
    return str(json.loads(data)["choices"][0]["text"])


@dataclass(eq=False)
class Stream(threading.Thread):
    """One streamed completion in the background; `whole` says whether it arrived to its end. It can be held."""

    base: str
    model: str
    tokens: int = STREAM_TOKENS
    chunks: int = 0
    usage: int | None = None
    finish_reason: str | None = None
    done: bool = False
    error: str | None = None
    first: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    @property
    def whole(self) -> bool:
        return self.done and self.error is None and self.finish_reason == "length" and self.usage == self.tokens

    def run(self) -> None:
        body = {
            "model": self.model, "prompt": PROMPT, "max_tokens": self.tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True}, "vllm_xargs": {"hold": HELD},
        }  # fmt: skip
        try:
            response = _post(f"{self.base}/v1/completions", body, timeout=GUARD_SECONDS)
            if response.status != 200:
                self.error = f"HTTP {response.status}: {response.read(300)!r}"
                return
            for line in response:
                self._take(line.decode().strip())
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)
        finally:
            self.first.set()

    def _take(self, line: str) -> None:
        if not line.startswith("data: "):
            return
        payload = line.removeprefix("data: ")
        if payload == "[DONE]":
            self.done = True
            return
        event = json.loads(payload)
        if "error" in event:
            self.error = str(event["error"])
            return
        if event.get("usage"):
            self.usage = event["usage"]["completion_tokens"]
        for choice in event.get("choices", []):
            self.chunks += 1
            self.first.set()
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


class FirstToken(threading.Thread):
    """Asks one pod for a token again and again until it answers; `at` is the wall-clock time of that answer."""

    def __init__(self, base: str, model: str) -> None:
        super().__init__(daemon=True)
        self._base, self._model = base, model
        self._stop_asking = threading.Event()
        self.at: float | None = None

    def run(self) -> None:
        while not self._stop_asking.is_set():
            try:
                greedy(self._base, self._model, tokens=1)
                self.at = time.time()
                return
            except (OSError, RuntimeError, http.client.HTTPException, ValueError):
                self._stop_asking.wait(0.1)

    def cancel(self) -> None:
        self._stop_asking.set()
