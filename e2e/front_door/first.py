"""How long the first request of each kind takes, and the second: on a plain start and on a thawed worker.

What is asked differs from what warmed the worker up, as clients' requests do: other texts, other schemas.
"""

import time
from dataclasses import dataclass
from typing import Any

from common.progress import say
from shutdown.workers import Workers
from vernal_worker.engine import warm
from worker_pod import WARM, Pod

_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "number"}}, "required": ["n"]}
OTHERS: dict[str, Any] = {
    **dict.fromkeys(("prompt", "content", "input", "query", "text_1"), "Somebody asks for something else"),
    "text_2": "And somebody answers",
    "documents": ["And somebody answers", "or nobody does"],
    **dict.fromkeys(("json", "schema", "parameters"), _SCHEMA),
    "regex": "[0-9]{3}-[a-f]",
    "choice": ["red", "green", "blue"],
    "grammar": 'root ::= "left" | "right" | "up"',
    "stop": ["the end"],
    "bad_words": ["worse"],
    "logit_bias": {"7": -1.0},
    "allowed_token_ids": [5, 6, 7, 8],
    "seed": 7,
    "tokens": [2, 3],
}
"""Instead of what the warm-up has under these names."""

VERY_FIRST = "the very first, plain"
REFUSED = (400, 404, 405)


@dataclass(frozen=True)
class Row:
    """Seconds of the first and the second request of a kind, or the status with which it was refused."""

    first: float = 0.0
    second: float = 0.0
    refused: int | None = None

    @property
    def late(self) -> bool:
        return self.refused is None and self.first > 2 * self.second

    def render(self) -> str:
        if self.refused is not None:
            return f" refused: {self.refused} | |"
        return f" {1000 * self.first:.0f} ms{' (over twice)' if self.late else ''} | {1000 * self.second:.0f} ms |"


def run(made: Workers) -> str:
    made.make_checkpoint(checkpoint=WARM)
    plain = made.start(made.store, checkpoint=WARM | {"policy": "Disabled"})
    plain.wait_ready()
    say("a plain start")
    cold = _ask(plain)
    plain.end()
    say("a thawed worker")
    pod = made.thawed(checkpoint=WARM)
    thawed = _ask(pod)
    pod.end()
    return render(cold, thawed)


def render(plain: dict[str, Row], thawed: dict[str, Row]) -> str:
    """A table, and how many are late."""
    lines = ["| kind | plain: first | second | thawed: first | second |", "|---|---|---|---|---|"]
    lines += [f"| {kind} |{row.render()}{thawed[kind].render()}" for kind, row in plain.items()]
    lines.append("")
    for name, rows in (("a plain start", plain), ("a thawed worker", thawed)):
        late = [kind for kind, row in rows.items() if row.late]
        asked = sum(row.refused is None for row in rows.values())
        lines.append(f"{name}, first over twice the second: {len(late)} of {asked}: {', '.join(late) or 'none'}")
    return "\n".join(lines)


def other(value: Any) -> Any:
    """A body with `OTHERS` in it."""
    if isinstance(value, dict):
        return {name: OTHERS[name] if name in OTHERS else other(each) for name, each in value.items()}
    return [other(each) for each in value] if isinstance(value, list) else value


def _ask(pod: Pod) -> dict[str, Row]:
    """One kind after the other, each twice. What every first request pays is in a row of its own."""
    asked = warm.requests("tiny", [])
    kinds = {VERY_FIRST: asked["plain"], **asked}
    return {kind: _twice(pod, kind, path, other(body)) for kind, (path, body) in kinds.items()}


def _twice(pod: Pod, kind: str, path: str, body: Any) -> Row:
    times = []
    for _ in range(2):
        began = time.monotonic()
        status, answer = pod.ask("POST", path, body)
        times.append(time.monotonic() - began)
        if status in REFUSED:
            return Row(refused=status)
        if status != 200:
            raise RuntimeError(f"{kind}: HTTP {status}: {answer.decode(errors='replace')}")
    return Row(times[0], times[1])
