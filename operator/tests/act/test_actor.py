"""One write that is refused keeps no other from being done, and is asked for once a round."""

from dataclasses import replace
from typing import Any

from plan.factory import snapshot, spec
from vernal_operator.act.actor import Actor
from vernal_operator.act.writer import TakenError
from vernal_operator.client import ApiError
from vernal_operator.kinds import CHECKPOINTS, POOLS, Key
from vernal_operator.plan import plan
from vernal_operator.plan.model import CheckpointDecisions, Refused

KEY = Key(POOLS, "ns", "p")


class Writer:
    """In place of the API server's answers: which writes came."""

    def __init__(self, **refused: Exception) -> None:
        self.done: list[tuple[str, str]] = []
        self._refused = refused

    def _write(self, kind: str, name: str) -> bool:
        self.done.append((kind, name))
        if kind in self._refused:
            raise self._refused[kind]
        return True

    def create(self, key: Key, kind: Any, manifest: Any, owner: Any) -> bool:
        return self._write(kind.name, manifest["metadata"]["name"])

    def apply(self, key: Key, kind: Any, manifest: Any, owner: Any) -> None:
        self._write(kind.name, manifest["metadata"]["name"])

    def finalizers(self, key: Key, finalizers: tuple[str, ...]) -> bool:
        return self._write("finalizers", key.name)

    def status(self, key: Key, status: Any) -> bool:
        self.written = status
        return self._write("status", key.name)


class Recorder:
    def __init__(self) -> None:
        self.said: list[str] = []

    def emit(self, key: Key, uid: str, event: Any) -> bool:
        self.said.append(event.reason)
        return True


def run(writer: Writer, replicas: int) -> tuple[Any, Recorder]:
    recorder, seen = Recorder(), snapshot(spec(replicas=replicas))

    def again(refused: tuple[Refused, ...]) -> Any:
        return plan(replace(seen, refused=refused))

    return Actor(writer, recorder).pool(KEY, "u", plan(seen), again), recorder  # type: ignore[arg-type]


def test_a_service_that_is_anothers_keeps_nothing_else_from_being_done() -> None:
    writer = Writer(Service=TakenError("Service ns/p exists and is not this pool's; delete it or rename the pool"))
    outcome, recorder = run(writer, 1)
    kinds = [kind for kind, _ in writer.done]
    assert kinds == ["ControllerRevision", "Service", "PodDisruptionBudget", "Pod", "status"]
    degraded = next(c for c in writer.written["conditions"] if c["type"] == "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "NameTaken") and "rename the pool" in degraded[
        "message"
    ]
    assert "NameTaken" in recorder.said and outcome.retry_refused is not None


def test_a_quota_is_asked_once_a_round() -> None:
    sentence = 'pods "p-1-0" is forbidden: exceeded quota: q'
    writer = Writer(Pod=ApiError(403, "Forbidden", sentence, sentence=sentence))
    run(writer, 500)
    assert len([kind for kind, _ in writer.done if kind == "Pod"]) == 1


def test_an_api_server_that_is_down_is_asked_nothing_more() -> None:
    writer = Writer(Service=ApiError(503, "ServiceUnavailable", "down"))
    outcome, _ = run(writer, 5)
    assert writer.done[-1] == ("Service", "p") and len(outcome.errors) == 1


def test_a_finalizer_that_cannot_be_taken_away_is_tried_again_ever_more_seldom() -> None:
    """It is the last write, which comes after the report."""
    writer = Writer(finalizers=ApiError(422, "Invalid", "no"))
    now = 0.0
    actor, key = Actor(writer, Recorder(), lambda: now), Key(CHECKPOINTS, "ns", "c")  # type: ignore[arg-type]
    wanted = CheckpointDecisions(finalizers=())
    pauses = []
    for _ in range(3):
        outcome = actor.checkpoint(key, "u", wanted, lambda refused: wanted)
        assert outcome.retry_refused is not None and not outcome.writes
        pauses.append(outcome.retry_refused)
        assert [refused.verb for refused in actor.refused(key)] == ["patch"]
        now += outcome.retry_refused
    assert pauses == sorted(pauses) and pauses[2] > 2 * pauses[0]
    assert len(writer.done) == 3
