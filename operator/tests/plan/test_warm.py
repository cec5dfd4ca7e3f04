"""On how many nodes a checkpoint is warm, as last known."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import HOST, NOW, artifact, creator, published, ready, snapshot, spec, worker
from vernal_contract.identity import digest
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport, StartMode, WorkerState
from vernal_operator.build.pod import NodeCache
from vernal_operator.plan import plan, plan_checkpoint, warm
from vernal_operator.plan.model import CheckpointSnapshot, NodeCaches, NodeView, PoolUse, WorkerUse
from vernal_operator.plan.polling import FILLING_SECONDS, FILLS_SECONDS, due

USER = PoolUse(name="p", restore_attempts=3, retain=False, unused_seconds=3600)
NODES = ("a", "b", "c")
[MANIFEST] = plan(snapshot(spec(), ready(0, worker=creator()))).create_checkpoints


def report(at: float = 0.0, **fields: Any) -> NodeCacheReport:
    return NodeCacheReport(tier="disk", told_at=NOW - 100 + at, **fields)


HIT: dict[str, Any] = {"lookup": CacheLookup.HIT}
MISS: dict[str, Any] = {"lookup": CacheLookup.MISS}
DAMAGED: dict[str, Any] = {"lookup": CacheLookup.DAMAGED}
FILLED: dict[str, Any] = {"lookup": CacheLookup.MISS, "fill": CacheFill.FILLED}
EVICTED: dict[str, Any] = {"fill": CacheFill.FILLED, "evicted_bytes": 1}


def use(said: NodeCacheReport | None, node: str = "a", uid: str = "w", **state: Any) -> WorkerUse:
    told = worker(node_cache=said, **state)
    return WorkerUse(pool="p", pod=uid, pod_uid=uid, restarts=0, worker=told, answered_at=NOW, node=node)


def other(said: NodeCacheReport, node: str = "a", uid: str = "o") -> WorkerUse:
    """Of another checkpoint."""
    return use(said, node, uid, identity=digest(HOST), artifact=None)


def seen(*uses: WorkerUse, nodes: tuple[str, ...] | None = NODES, **fields: Any) -> CheckpointSnapshot:
    own = tuple(u for u in uses if u.worker.artifact is not None)
    told = tuple(u for u in uses if u.worker.node_cache is not None)
    machines = None if nodes is None else tuple(NodeView(name=name) for name in nodes)
    caches = NodeCaches(cache=NodeCache("/c", 1), machines=machines, told=told, others=fields.pop("others", ()))
    view = replace(published(MANIFEST), status=fields.pop("status", {}))
    return CheckpointSnapshot(
        **({"now": NOW, "checkpoint": view, "workers": own, "users": (USER,), "caches": caches} | fields)
    )


def after(snap: CheckpointSnapshot, *uses: WorkerUse, **fields: Any) -> CheckpointSnapshot:
    """With what was decided written, and these workers there instead."""
    done = plan_checkpoint(snap)
    status = done.status if done.status is not None else dict(snap.checkpoint.status)
    return seen(*uses, status=status, **fields)


def nodes(snap: CheckpointSnapshot) -> dict[str, tuple[bool, str]]:
    status = plan_checkpoint(snap).status or snap.checkpoint.status
    told = {node["name"]: (node["cached"], node["reason"]) for node in status.get("nodes", [])}
    assert status.get("warmNodes", 0) == sum(cached for cached, _ in told.values())
    return told


@pytest.mark.parametrize(
    ("fields", "state", "expected"),
    [
        (HIT, {}, (True, "Hit")),
        (MISS, {}, (False, "Miss")),
        (FILLED, {}, (True, "Filled")),
        ({"fill": CacheFill.FILLED}, {"start_mode": StartMode.COLD}, (True, "Filled")),
        ({"lookup": CacheLookup.MISS, "fill": CacheFill.FULL}, {}, (False, "Full")),
        ({"lookup": CacheLookup.MISS, "fill": CacheFill.FAILED}, {}, (False, "Failed")),
        (DAMAGED, {}, (False, "Damaged")),
        (DAMAGED | {"fill": CacheFill.FILLED}, {}, (True, "Filled")),
        ({"lookup": CacheLookup.UNAVAILABLE}, {}, (False, "Unavailable")),
        ({"lookup": CacheLookup.UNKNOWN}, {}, (False, "Unknown")),
        (FILLED | {"evicted_bytes": 5}, {}, (True, "Filled")),  # others' files
        (HIT, {"start_mode": StartMode.COLD}, None),  # it thawed, failed, and froze what it has now
        (MISS, {"start_mode": StartMode.COLD}, None),
        ({}, {}, None),
        (HIT, {"artifact": artifact("g0")}, None),
    ],
)
def test_what_a_worker_says(fields: dict[str, Any], state: dict[str, Any], expected: tuple[bool, str] | None) -> None:
    newest = use(None, "c", "newest", uptime=1.0)
    assert nodes(seen(use(report(**fields), **state), newest)).get("a") == expected


def test_it_is_kept_when_nobody_is_left_to_say_so() -> None:
    first = seen(use(report(**HIT)), use(report(**FILLED), "b", "x"))
    assert nodes(first) == {"a": (True, "Hit"), "b": (True, "Filled")}
    assert nodes(after(first)) == nodes(first)
    assert not plan_checkpoint(after(after(first))), "and nothing is written again"


def test_a_node_that_is_gone_is_not_counted() -> None:
    first = seen(use(report(**HIT)), use(report(**FILLED), "b", "x"))
    assert nodes(after(first, nodes=("b", "c"))) == {"b": (True, "Filled")}
    assert nodes(seen(use(report(**HIT), "nowhere"))) == {}
    assert nodes(seen(use(report(**HIT), "nowhere"), nodes=None)) == {"nowhere": (True, "Hit")}, "nobody can tell"


def test_another_generation_is_nowhere_yet() -> None:
    first = seen(use(report(**HIT)))
    renewed = use(report(50, **MISS), "b", "x", artifact=artifact("g2"), start_mode=StartMode.COLD, uptime=5.0)
    assert nodes(after(first, renewed)) == {}


@pytest.mark.parametrize("fields", [EVICTED, DAMAGED])
def test_what_others_take_from_a_node(fields: dict[str, Any]) -> None:
    warmed = seen(use(report(10, **HIT)))
    gone = after(warmed, use(report(10, **HIT)), other(report(20, **fields)))
    assert [cached for cached, _ in nodes(gone).values()] == [False]
    assert nodes(after(gone, use(report(10, **HIT)))) == nodes(gone), "the older word does not bring it back"
    back = after(gone, use(report(30, **FILLED), uid="later"), other(report(20, **fields)))
    assert nodes(back) == {"a": (True, "Filled")}
    assert nodes(after(back, other(report(20, **fields)))) == nodes(back)
    earlier = after(warmed, other(report(5, **fields)))
    assert nodes(earlier) == {"a": (True, "Hit")}


def test_where_nodes_have_no_cache_nothing_is_told() -> None:
    first = seen(use(report(**HIT)))
    without = replace(after(first), caches=None)
    status = plan_checkpoint(without).status
    assert status is not None and not {"nodes", "warmNodes"} & status.keys()
    assert not plan_checkpoint(replace(without, checkpoint=replace(without.checkpoint, status=status)))


def test_a_worker_whose_clock_is_ahead_is_not_believed() -> None:
    assert nodes(seen(use(report(1000, **HIT)))) == {}
    kept = {"name": "a", "cached": True, "reason": "Hit", "time": "2036-01-01T00:00:00Z"}
    assert nodes(seen(use(report(**MISS)), status={"generation": "g1", "nodes": [kept]})) == {"a": (False, "Miss")}


def test_more_nodes_than_can_be_kept() -> None:
    names = [f"n{number:03}" for number in range(warm.MOST_NODES + 50)]
    uses = [use(report(**(MISS if n < 50 else HIT)), name, name) for n, name in enumerate(names)]
    told = nodes(seen(*uses, nodes=tuple(names)))
    assert len(told) == warm.MOST_NODES and all(cached for cached, _ in told.values())


def test_who_takes_a_node_off_is_told_of() -> None:
    status = plan_checkpoint(seen(use(report(10, **HIT)))).status
    assert status is not None
    assert warm.takes_off(other(report(20, **EVICTED)), status)
    assert not warm.takes_off(other(report(5, **EVICTED)), status)
    assert not warm.takes_off(other(report(20, **EVICTED), "b"), status)
    assert not warm.takes_off(other(report(20, **FILLED)), status)
    off = plan_checkpoint(seen(other(report(20, **EVICTED)), status=status)).status
    assert off is not None and not warm.takes_off(other(report(20, **EVICTED)), off), "once"


KINDS: dict[str, dict[str, Any]] = {
    "hit": HIT,
    "miss": MISS,
    "filled": FILLED,
    "damaged": DAMAGED,
    "evicted": EVICTED,
    "silent": {},
}
WARM = {("hit", True), ("filled", True), ("evicted", True)}  # that it was for others' files makes it no less warm
COLD = {("miss", True), ("damaged", True), ("damaged", False), ("evicted", False)}
WORDS = st.tuples(st.integers(0, 5), st.sampled_from(NODES), st.sampled_from(sorted(KINDS)), st.booleans())


def said(word: tuple[int, str, str, bool]) -> WorkerUse:
    at, node, kind, mine = word
    return (use if mine else other)(report(at, **KINDS[kind]), node, f"{at}-{node}-{kind}-{mine}")


@given(told=st.lists(WORDS, max_size=6, unique=True), data=st.data())
def test_the_order_and_the_number_of_looks_make_no_difference(
    told: list[tuple[int, str, str, bool]], data: st.DataObject
) -> None:
    """Also with workers that are gone before the next look."""
    anchor, words = use(None, "c", "anchor"), [said(word) for word in told]
    together, one_by_one = seen(anchor, *words), seen(anchor)
    for word in data.draw(st.permutations(words)):
        one_by_one = after(one_by_one, anchor, word)
    expected = nodes(together)
    assert nodes(one_by_one) == expected
    once_more = after(one_by_one, anchor, *words)
    assert nodes(once_more) == expected
    assert plan_checkpoint(after(once_more, anchor, *words)).status is None, "nothing has changed"
    for node in NODES:
        no = max((at for at, where, *word in told if where == node and tuple(word) in COLD), default=-1)
        yes = max((at for at, where, *word in told if where == node and tuple(word) in WARM), default=-1)
        assert expected.get(node, (False, ""))[0] == (yes > no), (node, told)


def filling(**fields: Any) -> WorkerState:
    return worker(node_cache=report(**({"lookup": CacheLookup.MISS} | fields)))


@pytest.mark.parametrize(
    ("state", "reads"),
    [
        (filling(), True),
        (filling(fill=CacheFill.FILLED), False),
        (filling(fill=CacheFill.FULL), False),
        (filling(lookup=CacheLookup.HIT), False),
        (creator(node_cache=report(**HIT)), True),  # it thawed in vain, froze, and fills
        (creator(node_cache=report()), True),
        (worker(node_cache=report(), artifact=None), False),
        (worker(), False),
    ],
)
def test_a_worker_that_fills_is_asked_until_it_has(state: WorkerState, reads: bool) -> None:
    pod = ready(0, worker=state, ready_since=NOW)
    assert due([pod], NOW) == (frozenset(), NOW + FILLING_SECONDS if reads else None)
    assert due([pod], NOW + FILLING_SECONDS) == (frozenset({pod.name} if reads else ()), None)
    late = NOW + FILLS_SECONDS
    assert due([replace(pod, polled_at=late)], late) == (frozenset(), None), "nobody waits for ever"
