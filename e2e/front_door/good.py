"""Well-behaved clients, in a process of their own inside the worker's network: `python -m front_door.good PID SECONDS`.

Each uses the `openai` package as people do, has connections of its own, which it keeps for a minute, and judges every
answer by the first to the same question. Prints one line of JSON at the end.
"""

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

CLIENTS = 8
KEPT_SECONDS = 60.0
"""How long these clients keep an idle connection, as the usual pools do."""
GAPS = (0.0, 0.0, 0.1, 1.0, 4.999, 5.0, 5.001, 20.0)
"""Seconds between two requests; 5 is uvicorn's own limit for idle connections."""


def enter_network(pid: int) -> None:
    """Move this process, which has one thread, to the network of `pid`."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as namespace:
        if libc.setns(namespace.fileno(), 0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")


def main() -> None:
    pid, seconds = int(sys.argv[1]), float(sys.argv[2])
    enter_network(pid)
    prompts = [f"A worker that has served {word}" for word in ("before", "many", "few", "none")]
    kinds: list[Callable[..., str]] = [_complete, _stream, _chat, _chat_stream, _logprobs]
    first = _client()
    expected = {(ask, prompt): ask(first, prompt) for ask in (_complete, _chat) for prompt in prompts}
    outcome: Counter[str] = Counter()
    whole = [0] * CLIENTS
    slowest = [0.0]
    until = time.monotonic() + seconds

    def one(number: int) -> None:
        client, draw = _client(), random.Random(number)
        while time.monotonic() < until:
            prompt, kind = draw.choice(prompts), draw.choice(kinds)
            began = time.monotonic()
            try:
                text = kind(client, prompt)
                same = text == expected[_chat if kind in (_chat, _chat_stream) else _complete, prompt]
                outcome["whole" if same else f"other text, {kind.__name__}"] += 1
                whole[number] += same
            except Exception as error:
                outcome[f"{type(error).__name__}: {error} ({error.__cause__!r}), {kind.__name__}"] += 1
            slowest[0] = max(slowest[0], time.monotonic() - began)
            time.sleep(draw.choice(GAPS))

    threads = [threading.Thread(target=one, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"outcome": outcome, "whole": whole, "slowest": round(slowest[0], 1)}), flush=True)


def _client() -> object:
    """One with a pool of connections of its own."""
    import httpx2  # what openai is built on
    import openai

    http = httpx2.Client(limits=httpx2.Limits(keepalive_expiry=KEPT_SECONDS), timeout=600.0, trust_env=False)
    return openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none", max_retries=0, http_client=http)


def _complete(client: object, prompt: str, **more: object) -> str:
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=24, temperature=0, **more)  # type: ignore[attr-defined]
    return str(answer.choices[0].text)


def _logprobs(client: object, prompt: str) -> str:
    return _complete(client, prompt, logprobs=2)


def _stream(client: object, prompt: str) -> str:
    stream = client.completions.create(model="tiny", prompt=prompt, max_tokens=24, temperature=0, stream=True)  # type: ignore[attr-defined]
    text, reason = "", None
    for event in stream:
        text += event.choices[0].text
        reason = event.choices[0].finish_reason or reason
    return text if reason is not None else "cut off"


def _chat(client: object, prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=16, temperature=0)  # type: ignore[attr-defined]
    return f"{answer.choices[0].message.content} ({answer.choices[0].finish_reason})"


def _chat_stream(client: object, prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    stream = client.chat.completions.create(  # type: ignore[attr-defined]
        model="tiny", messages=messages, max_tokens=16, temperature=0, stream=True
    )
    text, reason = "", None
    for event in stream:
        if event.choices:
            text += event.choices[0].delta.content or ""
            reason = event.choices[0].finish_reason or reason
    return f"{text} ({reason})"


if __name__ == "__main__":
    main()
