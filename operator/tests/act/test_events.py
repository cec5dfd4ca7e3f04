"""Events: one object for what is said once, whoever says it."""

from vernal_operator.act.events import body
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
