"""One write that is refused keeps no other from being done, and is asked for once a round."""

from dataclasses import replace
from typing import Any

import pytest
from plan.factory import snapshot, spec
from vernal_operator.act.actor import Actor
from vernal_operator.act.writer import TakenError
from vernal_operator.client import ApiError
from vernal_operator.kinds import CHECKPOINTS, POOLS, Key
from vernal_operator.plan import plan
from vernal_operator.plan.model import CheckpointDecisions, Decisions, Refused

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

    def emit(self, key: Key, uid: str, events: Any, *, wait: bool = False) -> float | None:
        self.said += [] if wait else [event.reason for event in events]
        return 1.0 if wait else None


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
    assert told(writer, "Degraded") == ("True", "NameTaken")
    assert any("rename the pool" in c["message"] for c in writer.written["conditions"])
    assert "NameTaken" in recorder.said and outcome.retry_refused is not None


def test_a_quota_is_asked_once_a_round() -> None:
    sentence = 'pods "p-1-0" is forbidden: exceeded quota: q'
    writer = Writer(Pod=ApiError(403, "Forbidden", sentence, sentence=sentence))
    run(writer, 500)
    assert len([kind for kind, _ in writer.done if kind == "Pod"]) == 1


def told(writer: Writer, kind: str) -> tuple[str, str]:
    """Status and reason of a condition that was written."""
    return next((c["status"], c["reason"]) for c in writer.written["conditions"] if c["type"] == kind)


@pytest.mark.parametrize("error", [
    ApiError(0, "ReadTimeoutError", "no answer"), ApiError(429, "TooManyRequests", "later"),
    ApiError(503, "ServiceUnavailable", "down"),
], ids=lambda error: str(error.status))  # fmt: skip
def test_an_api_server_that_is_not_there_is_asked_for_the_status_only(error: ApiError) -> None:
    writer = Writer(Service=error)
    outcome, recorder = run(writer, 5)
    assert writer.done[-2:] == [("Service", "p"), ("status", "p")] and outcome.errors == [error]
    assert outcome.told and "Pod" not in [kind for kind, _ in writer.done]
    quiet = Writer(Service=error, status=error)
    outcome, recorder = run(quiet, 5)
    assert len(outcome.errors) == 2 and not outcome.told and outcome.waiting == 1.0 and not recorder.said


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_one_write_that_fails_keeps_nothing_else_from_being_done(status: int) -> None:
    writer = Writer(Service=ApiError(status, "InternalError", "no"))
    outcome, _ = run(writer, 1)
    kinds = [kind for kind, _ in writer.done]
    assert kinds == ["ControllerRevision", "Service", "PodDisruptionBudget", "Pod", "status"]
    assert outcome.told and len(outcome.errors) == 1 and outcome.retry_refused is None


def test_what_is_alike_fails_once_a_round() -> None:
    writer = Writer(Pod=ApiError(500, "InternalError", "no"))
    outcome, _ = run(writer, 500)
    assert len([kind for kind, _ in writer.done if kind == "Pod"]) == 1 == len(outcome.errors)


@pytest.mark.parametrize("kind", ["Pod", "Service"])
def test_a_webhook_that_cannot_be_asked_is_a_refusal_like_any_other(kind: str) -> None:
    sentence = 'Internal error occurred: failed calling webhook "x.example.com": failed to call webhook: EOF'
    writer = Writer(**{kind: ApiError(500, "InternalError", sentence, sentence=sentence)})
    outcome, recorder = run(writer, 3)
    kinds = [name for name, _ in writer.done]
    assert kinds[:3] == ["ControllerRevision", "Service", "PodDisruptionBudget"] and kinds[-1] == "status"
    assert kinds.count("Pod") == (1 if kind == "Pod" else 3)
    assert told(writer, "Degraded") == ("True", "AdmissionUnavailable") and told(writer, "Ready")[0] == "False"
    assert not outcome.errors and outcome.retry_refused is not None and "AdmissionUnavailable" in recorder.said


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


def test_a_status_that_is_refused_is_tried_again_ever_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it holds meanwhile. It is told in an Event: no condition can."""
    sentence = "no status on a Wednesday"
    writer, recorder, now = Writer(status=ApiError(422, "Invalid", sentence, sentence=sentence)), Recorder(), 0.0
    actor = Actor(writer, recorder, lambda: now)  # type: ignore[arg-type]
    pauses = []
    for turn in range(6):
        decided = Decisions(status={"conditions": [], "readyReplicas": turn})
        outcome = actor.pool(KEY, "u", decided, lambda refused, decided=decided: decided)  # type: ignore[misc]
        assert outcome.retry_refused is not None and not outcome.writes and not actor.refused(KEY)
        actor.pool(KEY, "u", decided, lambda refused, decided=decided: decided)  # type: ignore[misc]
        pauses.append(outcome.retry_refused)
        now += outcome.retry_refused
    assert pauses == sorted(pauses) and pauses[5] > 10 * pauses[0]
    assert len(writer.done) == 6 and recorder.said == ["InvalidObject"] and len(caplog.records) == 1
    settled = actor.pool(KEY, "u", Decisions(), lambda refused: Decisions())
    assert settled.retry_refused is None, "it is not wanted any more"
