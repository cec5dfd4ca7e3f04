"""Real load on a pod: completions that are asked for in threads and judged by what came back."""

import contextlib
import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker_pod import Pod

PROMPT = "A worker that has served before"
WHOLE, HANGS, CUT = "whole", "hangs", "cut off"


class Asked(threading.Thread):
    """One completion. `outcome` is `WHOLE`, `HANGS` (no byte for `silence` seconds), `CUT`, or what the server said."""

    def __init__(self, pod: "Pod", *, stream: bool, tokens: int, silence: float = 30.0) -> None:
        super().__init__(daemon=True)
        self._connection = pod.http(timeout=silence)
        self._stream, self._tokens = stream, tokens
        self.first = threading.Event()
        self.outcome: str | None = None
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        try:
            with contextlib.closing(self._connection):
                self.outcome = self._ask()
        except TimeoutError:
            self.outcome = HANGS
        except (OSError, http.client.HTTPException):
            self.outcome = CUT
        self.seconds = time.monotonic() - began
        self.first.set()

    def _ask(self) -> str:
        body: dict[str, Any] = {
            "model": "tiny", "prompt": PROMPT, "max_tokens": self._tokens, "temperature": 0, "ignore_eos": True,
        }  # fmt: skip
        if self._stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        self._connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        if not self._stream:
            self.first.set()
        answer = self._connection.getresponse()
        if answer.status != 200:
            return f"HTTP {answer.status}"
        return self._events(answer) if self._stream else self._plain(json.loads(answer.read()))

    def _plain(self, answer: dict[str, Any]) -> str:
        return WHOLE if answer["usage"]["completion_tokens"] == self._tokens else CUT

    def _events(self, answer: http.client.HTTPResponse) -> str:
        tokens = 0
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            data = line.removeprefix(b"data: ").strip()
            if data == b"[DONE]":
                return WHOLE if tokens == self._tokens else CUT
            event = json.loads(data)
            if "error" in event:
                return f"error {event['error'].get('code')} in the stream"
            self.first.set()
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
        return CUT


class Load:
    """Some streamed and some plain completions at once; returns when all streams have begun."""

    def __init__(
        self, pod: "Pod", *, streams: int = 4, plain: int = 2, tokens: int = 600, silence: float = 60.0
    ) -> None:
        self.asked = [Asked(pod, stream=True, tokens=tokens, silence=silence) for _ in range(streams)]
        self.asked += [Asked(pod, stream=False, tokens=tokens, silence=silence) for _ in range(plain)]
        for each in self.asked:
            each.first.wait(60)
        time.sleep(0.3)  # the plain ones are with the server by now

    def running(self) -> int:
        return sum(each.is_alive() for each in self.asked)

    def outcomes(self, timeout: float = 120.0) -> dict[str, int]:
        """How many ended how; those that still run after `timeout` seconds hang."""
        deadline = time.monotonic() + timeout
        counts: dict[str, int] = {}
        for each in self.asked:
            each.join(max(0.0, deadline - time.monotonic()))
            outcome = each.outcome or HANGS
            counts[outcome] = counts.get(outcome, 0) + 1
        return counts


def tell(outcomes: dict[str, int]) -> str:
    total = sum(outcomes.values())
    return ", ".join(f"{count} of {total} {outcome}" for outcome, count in sorted(outcomes.items()))
