"""The laws of laying an overlay over a pod."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_operator.build.overlay import MERGE_KEYS, merge

scalars = st.integers(0, 3) | st.booleans() | st.text("ab", max_size=2)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner), max_leaves=5
)
entries = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b", "c"])}, optional={"image": scalars, "args": st.lists(scalars, max_size=2)}
    ),
    max_size=3,
    unique_by=lambda entry: entry["name"],
)
selectors = st.dictionaries(st.sampled_from("xyz"), scalars)
pods = st.fixed_dictionaries(
    {}, optional={"containers": entries, "volumes": entries, "x": plain, "nodeSelector": selectors}
)


def named(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries}


@given(pods)
def test_an_empty_overlay_changes_nothing(base: dict[str, Any]) -> None:
    assert merge(base, {}) == base


@given(pods)
def test_over_nothing_it_is_the_overlay(overlay: dict[str, Any]) -> None:
    assert merge({}, overlay) == overlay


@given(pods, pods)
def test_twice_is_once(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    once = merge(base, overlay)
    assert merge(once, overlay) == once


@given(pods, pods)
def test_neither_argument_is_changed_or_shared(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    before = copy.deepcopy((base, overlay))
    merged = merge(base, overlay)
    for entries_ in (merged.get("containers", []), merged.get("volumes", [])):
        for entry in entries_:
            entry["image"] = "changed"
    merged.setdefault("nodeSelector", {})["q"] = 1
    assert (base, overlay) == before


@given(pods, pods)
def test_what_the_overlay_does_not_speak_of_stays(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    merged = merge(base, overlay)
    for field in base.keys() - overlay.keys():
        assert merged[field] == base[field]
    for field in ("containers", "volumes"):
        over, under = named(overlay.get(field, [])), named(base.get(field, []))
        found = named(merged.get(field, []))
        assert found.keys() == over.keys() | under.keys()
        assert len(found) == len(merged.get(field, []))
        for name, entry in found.items():
            assert entry == {**under.get(name, {}), **over.get(name, {})}


def test_null_removes_and_unnamed_lists_are_replaced() -> None:
    base = {"priority": 1, "containers": [{"name": "worker", "args": ["a"], "resources": {"limits": {"cpu": 1}}}]}
    overlay = {
        "priority": None,
        "containers": [{"name": "worker", "args": ["b"], "resources": {"limits": {"cpu": None, "memory": "1Gi"}}}],
    }
    assert merge(base, overlay) == {
        "containers": [{"name": "worker", "args": ["b"], "resources": {"limits": {"memory": "1Gi"}}}]
    }


def test_mounts_are_merged_by_path_and_ports_by_number() -> None:
    base = {"volumeMounts": [{"mountPath": "/tmp", "name": "tmp"}], "ports": [{"containerPort": 8000, "name": "http"}]}
    overlay = {"volumeMounts": [{"mountPath": "/tmp", "name": "big"}], "ports": [{"containerPort": 9, "name": "x"}]}
    merged = merge(base, overlay)
    assert merged["volumeMounts"] == [{"mountPath": "/tmp", "name": "big"}]
    assert [p["containerPort"] for p in merged["ports"]] == [8000, 9]
    assert MERGE_KEYS["ports"] == "containerPort"


@pytest.mark.parametrize("odd", [[], {}, ["a"], {"a": 1}, 1.5, None, True])
def test_an_entry_whose_identity_is_none_is_added(odd: Any) -> None:
    """What it should have been is the API server's to say, of the pod that comes of it."""
    base = {"volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}
    assert merge(base, {"volumeMounts": [{"mountPath": odd}]})["volumeMounts"] == [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"mountPath": odd},
    ]
