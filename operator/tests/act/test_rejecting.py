"""What becomes of a refused pod in the round that rejects its revision."""

from dataclasses import replace
from functools import partial
from typing import Any, cast

from plan.factory import NOW, ready
from plan.test_proving import DEADLINE, rolling
from vernal_operator.act.actor import Actor
from vernal_operator.act.events import Recorder
from vernal_operator.act.writer import Writer
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import PODS, POOLS, Key
from vernal_operator.plan import plan
from vernal_operator.plan.model import Decisions, Refused, Snapshot

KEY = Key(POOLS, "ns", "p")
SENTENCE = 'pods "p" is forbidden: exceeded quota: gpus, requested: 1, used: 2, limited: 2'


class Full:
    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def create(self, key: Any, kind: Any, manifest: Any, owner: Any) -> bool:
        if kind is PODS:
            raise ApiError(403, "Forbidden", SENTENCE, sentence=SENTENCE)
        return True

    def apply(self, *_: Any) -> None: ...

    def delete(self, *_: Any) -> bool:
        return True

    def status(self, key: Any, status: dict[str, Any]) -> bool:
        self.told.append(status)
        return True


class Nothing:
    def create(self, *_: Any) -> dict[str, Any]:
        return {}


def _again(at: Snapshot, refused: tuple[Refused, ...]) -> Decisions:
    return plan(replace(at, refused=refused))


def test_a_rejection_says_what_was_refused() -> None:
    writer, now = Full(), [0.0]
    actor = Actor(cast(Writer, writer), Recorder(cast(Client, Nothing())), clock=lambda: now[0])
    seen = rolling(ready(0), ready(1), since=NOW - DEADLINE + 1, to="worker:2")
    for moment in (NOW, NOW + 1):
        at = replace(seen, now=moment, refused=actor.refused(KEY))
        actor.pool(KEY, "u", plan(at), partial(_again, at))
        seen = replace(seen, pool=replace(seen.pool, status=writer.told[-1]))
    assert "exceeded quota" in writer.told[-1]["rejected"]["message"]
