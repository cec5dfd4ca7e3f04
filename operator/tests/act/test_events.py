"""Events: one object for what is said once, whoever says it."""

from typing import Any, cast

from vernal_operator.act.events import AT_ONCE, PAUSE_SECONDS, PER_SECOND, Recorder, body
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import POOLS, Key
from vernal_operator.plan.model import Event

KEY = Key(POOLS, "ns", "p" * 48)


def event(key: str = "k", message: str = "hello") -> Event:
    return Event(type="Normal", reason="Restored", message=message, key=key)


def test_the_name_depends_on_object_and_key_alone() -> None:
    first, again = body(KEY, "uid", event()), body(KEY, "uid", event(message="other words"))
    assert first["metadata"]["name"] == again["metadata"]["name"]
    others = {body(KEY, "uid2", event())["metadata"]["name"], body(KEY, "uid", event("k2"))["metadata"]["name"]}
    assert len(others | {first["metadata"]["name"]}) == 3


def test_a_long_message_is_cut_where_characters_end() -> None:
    note = body(KEY, "uid", event(message="ü" * 2000))["note"]
    assert len(note.encode()) <= 1024
    assert note.endswith("...") and set(note[:-3]) == {"ü"}


class Posted:
    """In place of the API server: which Events came. Each is refused with `error`, if there is one."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.error: ApiError | None = None
        self.tries = 0

    def create(self, kind: Any, namespace: str, manifest: Any) -> Any:
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.notes.append(manifest["note"])


def test_a_hundred_events_are_posted_a_few_at_a_time_and_none_is_lost() -> None:
    posted = Posted()
    recorder = Recorder(cast(Client, posted))
    done = recorder.emit(KEY, "u", [event(str(number), str(number)) for number in range(100)])
    assert done == AT_ONCE / PER_SECOND and len(posted.notes) == AT_ONCE and len(recorder.announced("u")) == 100
    rounds = 1
    while recorder.emit(KEY, "u", [event("0", "0")]) is not None:
        rounds += 1
        assert len(posted.notes) == rounds * AT_ONCE
    assert posted.notes == [str(number) for number in range(100)]


def test_what_could_not_be_posted_waits_ever_longer_and_is_posted_in_the_end() -> None:
    posted, now = Posted(), 0.0
    recorder = Recorder(cast(Client, posted), lambda: now)
    lost = 'Internal error occurred: failed calling webhook "x": EOF'
    for error in (ApiError(500, "InternalError", lost, sentence=lost), ApiError(503, "ServiceUnavailable", "down")):
        posted.error, posted.tries, posted.notes = error, 0, []
        uid, pauses = str(error.status), []
        pause = recorder.emit(KEY, uid, [event("a", "a"), event("b", "b")])
        for turn in range(1, 11):
            assert pause is not None and posted.tries == turn
            pauses.append(pause)
            now += pause / 2
            assert recorder.emit(KEY, uid) is not None and posted.tries == turn, "too early"
            now += pause / 2
            pause = recorder.emit(KEY, uid)
        assert pauses == sorted(pauses) and pauses[0] == PAUSE_SECONDS[0] and pauses[-1] == PAUSE_SECONDS[1]
        posted.error = None
        now += PAUSE_SECONDS[1]
        assert recorder.emit(KEY, uid, wait=True) is not None and not posted.notes
        assert recorder.emit(KEY, uid, [event("c", "c")]) is None and posted.notes == ["a", "b", "c"]
