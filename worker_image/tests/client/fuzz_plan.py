"""Which calls the fuzz makes, and in which order: pure. The same seed gives the same order."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

WEIGHTS = {
    # Requests that AsyncLLM serves.
    "generate": 3200,
    "generate, left early": 600,
    "generate, streamed input": 150,
    "add_request": 500,
    # What ends them.
    "abort": 800,
    "cancel": 900,
    # What nobody can serve.
    "malformed request": 1300,
    "malformed call": 500,
    "encode": 150,
    # Calls.
    "check_health": 350,
    "is_paused": 80,
    "is_sleeping": 80,
    "pause_generation": 120,
    "resume_generation": 200,
    "sleep": 100,
    "wake_up": 200,
    "reset caches": 150,
    "collective_rpc": 120,
    "what it knows": 200,
    "metrics": 60,
    # A freeze, and what ends an engine: seconds each.
    "freeze": 8,
    "freeze, there already": 5,
    "freeze, impossible": 10,
    "kill": 9,
    "close": 3,
    "shutdown": 2,
    "delete": 2,
    "thaw, cancelled": 4,
    "thaw, nothing there": 5,
    "create, malformed": 6,
}
"""How often each kind is drawn, beside the others. `thaw` is not drawn: whatever needs an engine makes one."""

ENDS = frozenset({"kill", "close", "shutdown", "delete"})
"""Kinds that end an engine."""

WITHOUT_ENGINE = frozenset({"thaw, cancelled", "thaw, nothing there", "create, malformed"})
"""Kinds that need none."""


@dataclass(frozen=True)
class Step:
    """One call. `chance` decides what the kind leaves open."""

    number: int
    kind: str
    chance: float


def plan(seed: int, calls: int) -> Iterator[Step]:
    """So many calls. The rare ones, of which the others depend, are all there however few there are in all: at least
    one freeze and one kill."""
    draw = random.Random(seed)
    kinds = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=calls)
    for kind, place in (("freeze", calls // 3), ("kill", calls // 2), ("close", calls - 1)):
        if calls and kind not in kinds:
            kinds[place] = kind
    for number, kind in enumerate(kinds):
        yield Step(number, kind, draw.random())
