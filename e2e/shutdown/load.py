"""Real load on a pod: completions that are asked for in threads and judged by what came back."""

import contextlib
import http.client
import json
import threading
import time
from typing import Any

from patience import GUARD_SECONDS, until
from worker_pod import HELD, Pod

PROMPT = "A worker that has served before"
WHOLE, HANGS, CUT = "whole", "hangs", "cut off"
HELD_TOKENS = 24
"""Of a request that is held: it is not its length that keeps it in flight."""


class Asked(threading.Thread):
    """One completion. `outcome` is `WHOLE`, `HANGS` (no byte for `silence` seconds), `CUT`, or what the server said."""

    def __init__(self, pod: Pod, body: dict[str, Any], *, stream: bool, silence: float) -> None:
        super().__init__(daemon=True)
        self._connection = pod.http(timeout=silence)
        self._body, self._stream, self._tokens = body, stream, body["max_tokens"]
        self.first = threading.Event()
        self.outcome: str | None = None
        self.start()

    def run(self) -> None:
        try:
            with contextlib.closing(self._connection):
                self.outcome = self._ask()
        except TimeoutError:
            self.outcome = HANGS
        except (OSError, http.client.HTTPException):
            self.outcome = CUT
        self.first.set()

    def _ask(self) -> str:
        body = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "ignore_eos": True} | self._body
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
    """Some streamed and some plain completions at once.

    They are held: all are in flight when this returns, each stream with its first token, and stay so until `release`.
    With `hold=False` they run freely, for `tokens` tokens each.
    """

    def __init__(
        self,
        pod: Pod,
        *,
        streams: int = 4,
        plain: int = 2,
        tokens: int = HELD_TOKENS,
        hold: bool = True,
        silence: float = GUARD_SECONDS,
    ) -> None:
        self._pod = pod
        body: dict[str, Any] = {"max_tokens": tokens}
        if hold:
            pod.hold()
            body |= {"vllm_xargs": {"hold": HELD}}
        self.asked = [Asked(pod, body, stream=True, silence=silence) for _ in range(streams)]
        self.asked += [Asked(pod, body, stream=False, silence=silence) for _ in range(plain)]
        for each in self.asked:
            assert each.first.wait(GUARD_SECONDS), f"no first token within {GUARD_SECONDS:.0f} s:\n{pod.log()}"
        if hold:
            until(f"{len(self.asked)} requests in flight", self._all_in_flight, more=pod.log)

    def _all_in_flight(self) -> bool:
        ended = [each.outcome for each in self.asked if each.outcome]
        assert not ended, f"requests that are held ended: {ended}\n{self._pod.log()}"
        return self._pod.in_flight() == len(self.asked)

    def release(self) -> None:
        """Let those that are held go on."""
        self._pod.release()

    def running(self) -> int:
        return sum(each.is_alive() for each in self.asked)

    def outcomes(self) -> dict[str, int]:
        """How many ended how; those that are silent for too long hang."""
        deadline = time.monotonic() + GUARD_SECONDS
        counts: dict[str, int] = {}
        for each in self.asked:
            each.join(max(0.0, deadline - time.monotonic()))
            outcome = each.outcome or HANGS
            counts[outcome] = counts.get(outcome, 0) + 1
        return counts


def tell(outcomes: dict[str, int]) -> str:
    total = sum(outcomes.values())
    return ", ".join(f"{count} of {total} {outcome}" for outcome, count in sorted(outcomes.items()))
