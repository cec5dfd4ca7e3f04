"""The cache never goes back behind an own write, and keeps no ghosts."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from vernal_operator.observe.cache import Cache, Entry


def entry(name: str, version: int, uid: str = "", group: str = "g", view: Any = None) -> Entry[Any]:
    return Entry("ns", name, uid or f"uid-{name}", version, group, "", view)


class Fixture:
    def __init__(self) -> None:
        self.changes: list[tuple[int | None, int | None]] = []
        self.cache: Cache[Any] = Cache(self._changed)

    def _changed(self, old: Entry[Any] | None, new: Entry[Any] | None) -> None:
        self.changes.append((old.version if old else None, new.version if new else None))

    @property
    def content(self) -> dict[str, int]:
        return {e.name: e.version for e in self.cache.in_namespace("ns")}


def test_an_own_write_is_seen_before_the_watch_and_not_undone_by_it() -> None:
    of = Fixture()
    of.cache.listed([entry("a", 5)], 10)
    of.cache.wrote(entry("a", 12))
    of.cache.seen(entry("a", 11))  # what happened before, late
    assert of.content == {"a": 12}
    of.cache.seen(entry("a", 12))
    assert of.changes == [(None, 5), (5, 12)], "the watch's echo of an own write is no change"


def test_an_answer_that_comes_after_the_deletion_brings_nothing_back() -> None:
    of = Fixture()
    of.cache.listed([], 10)
    of.cache.seen(entry("a", 11))
    of.cache.gone("ns", "a", 13)
    of.cache.wrote(entry("a", 11))
    assert of.content == {}


def test_a_bookmark_counts_as_seen() -> None:
    of = Fixture()
    of.cache.listed([], 10)
    of.cache.reached(20)
    of.cache.wrote(entry("a", 15))  # made and deleted before the bookmark
    assert of.content == {}


def test_a_new_list_removes_what_went_while_nobody_watched() -> None:
    of = Fixture()
    of.cache.listed([entry("a", 1), entry("b", 2)], 10)
    of.cache.listed([entry("b", 2)], 20)
    assert of.content == {"b": 2}
    assert of.changes[-1] == (1, None)


def test_a_list_from_before_an_own_write_does_not_remove_it() -> None:
    of = Fixture()
    of.cache.listed([], 10)
    of.cache.wrote(entry("a", 25))
    of.cache.listed([], 20)
    assert of.content == {"a": 25}
    of.cache.listed([], 30)
    assert of.content == {}


def test_another_history_is_taken_over_whole() -> None:
    """etcd restored from a backup: numbers are lower than what was seen."""
    of = Fixture()
    of.cache.listed([entry("a", 90), entry("b", 95)], 100)
    of.cache.listed([entry("a", 40)], 50)
    assert of.content == {"a": 40}
    of.cache.seen(entry("a", 51))
    assert of.content == {"a": 51}


def test_a_namesake_replaces_and_is_not_removed_by_the_old_ones_end() -> None:
    of = Fixture()
    of.cache.listed([entry("a", 5, uid="old")], 10)
    of.cache.wrote(entry("a", 14, uid="new"))
    of.cache.gone("ns", "a", 12)
    assert of.content == {"a": 14}
    of.cache.absent("ns", "a", uid="old")
    assert of.content == {"a": 14}
    of.cache.absent("ns", "a", uid="new")
    assert of.content == {}


def test_groups_follow_labels() -> None:
    of = Fixture()
    of.cache.listed([entry("b", 1), entry("a", 2)], 10)
    assert [e.name for e in of.cache.group("ns", "g")] == ["a", "b"]
    of.cache.seen(entry("a", 11, group="h"))
    assert [e.name for e in of.cache.group("ns", "g")] == ["b"]
    assert [e.name for e in of.cache.group("ns", "h")] == ["a"]
    of.cache.gone("ns", "a", 12)
    assert of.cache.group("ns", "h") == []


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("ab"), st.sampled_from(["g", "h", ""]))))
def test_what_a_namespace_holds_is_what_there_is_of_it(steps: list[tuple[str, str, str]]) -> None:
    """An empty group: the object goes."""
    cache: Cache[Any] = Cache(lambda old, new: None)
    for version, (namespace, name, group) in enumerate(steps, 1):
        if group:
            cache.seen(Entry(namespace, name, f"uid-{name}", version, group, "", None))
        else:
            cache.gone(namespace, name, version)
        for each in "xy":
            there = {e.name: e for e in cache.entries() if e.namespace == each}
            assert {e.name: e for e in cache.in_namespace(each)} == there
            assert {e.name: e for g in "gh" for e in cache.group(each, g)} == there


@given(st.data())
def test_any_interleaving_of_watch_and_answers_ends_with_the_truth(data: st.DataObject) -> None:
    """One object is made, changed and deleted several times; the watch tells in order, answers come whenever after."""
    truth: list[tuple[str, int]] = []
    version = 10
    for _ in range(data.draw(st.integers(1, 4))):
        version += 1
        truth.append(("set", version))
        for _ in range(data.draw(st.integers(0, 2))):
            version += 1
            truth.append(("set", version))
        if data.draw(st.booleans()):
            version += 1
            truth.append(("gone", version))
    answers = [(at, v) for at, (what, v) in enumerate(truth) if what == "set"]
    of = Fixture()
    of.cache.listed([], 10)
    told = 0
    pending = data.draw(st.permutations(answers))
    while told < len(truth) or pending:
        if pending and (told == len(truth) or data.draw(st.booleans())):
            of.cache.wrote(entry("a", pending.pop()[1]))
        else:
            what, v = truth[told]
            told += 1
            if what == "set":
                of.cache.seen(entry("a", v))
            else:
                of.cache.gone("ns", "a", v)
    last, v = truth[-1]
    assert of.content == ({"a": v} if last == "set" else {})
