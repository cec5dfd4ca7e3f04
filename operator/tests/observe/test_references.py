"""What is due because something changed."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from plan.factory import creator, ready, snapshot, spec
from vernal_operator.build.pod import NodeCache
from vernal_operator.client import Client
from vernal_operator.kinds import CHECKPOINTS, NODES, PODS, POOLS, Key
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.references import References
from vernal_operator.observe.workers import Workers
from vernal_operator.plan import plan
from vernal_operator.settings import Settings


@pytest.fixture
def seen() -> Iterator[tuple[Observer, References]]:
    observer, workers = Observer(cast(Client, None), Settings(), lambda *_: None), Workers()
    yield observer, References(observer, workers)
    workers.close()


def checkpoint(observer: Observer, name: str, host: str, **status: Any) -> None:
    [manifest] = plan(snapshot(spec(), ready(0, worker=creator()))).create_checkpoints
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "5"}
    wanted = manifest["spec"] | {"hostTuple": host * 64}
    observer.wrote(CHECKPOINTS, manifest | {"metadata": meta, "spec": wanted, "status": status})


def pool(observer: Observer, name: str, version: str = "5", **status: Any) -> None:
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": version}
    wanted = {"image": "i", "model": {"name": "m"}, "checkpoint": {"storage": {"claimName": "store"}}}
    observer.wrote(POOLS, {"metadata": meta, "spec": wanted, "status": status})


def running(observer: Observer, pool: str) -> None:
    owner = {"name": pool, "uid": pool, "controller": True}
    meta = {
        "name": f"{pool}-0",
        "namespace": "ns",
        "uid": f"{pool}-0",
        "resourceVersion": "5",
        "ownerReferences": [owner],
    }
    statuses = [{"name": "worker", "state": {"running": {}}}]
    labels = {"labels": {"vernal.dev/pool": pool}}
    observer.wrote(PODS, {"metadata": meta | labels, "status": {"phase": "Running", "containerStatuses": statuses}})


def names(keys: Iterator[Key]) -> set[str]:
    return {f"{key.kind.plural}/{key.name}" for key in keys}


def test_a_pool_refers_to_each_checkpoint_that_its_status_lists(seen: tuple[Observer, References]) -> None:
    observer, references = seen
    for name, host in (("one", "a"), ("two", "b"), ("three", "c")):
        checkpoint(observer, name, host)
    entries = [{"name": "two", "nodes": ["n2"]}, {"name": "gone", "nodes": ["n3"]}]
    pool(observer, "p", checkpoint={"name": "one"}, checkpoints=entries)
    found = observer.pools.get("ns", "p")
    due = names(references.changed(POOLS, None, found))
    assert due == {"vllmworkerpools/p", "vllmcheckpoints/one", "vllmcheckpoints/two"}
    two = observer.checkpoints.get("ns", "two")
    assert two is not None and references.fitting(two.view) == ("n2",)
    assert not references.pools(two.view, ()), "nothing thaws it now: it is kept for its node, and not used"


def test_what_a_pool_does_not_refer_to_any_more_is_due(seen: tuple[Observer, References]) -> None:
    observer, references = seen
    for name, host in (("one", "a"), ("two", "b")):
        checkpoint(observer, name, host)
    pool(observer, "p", checkpoint={"name": "one"})
    before = observer.pools.get("ns", "p")
    pool(observer, "p", version="6", checkpoint={"name": "two"})
    due = names(references.changed(POOLS, before, observer.pools.get("ns", "p")))
    assert due == {"vllmworkerpools/p", "vllmcheckpoints/one", "vllmcheckpoints/two"}


def test_a_checkpoint_that_becomes_unused_is_counted_with_others(seen: tuple[Observer, References]) -> None:
    observer, references = seen
    limited = {"unusedSince": "2026-01-01T00:00:00Z", "retention": {"maxUnused": 1}}
    checkpoint(observer, "limited", "a", **limited)
    checkpoint(observer, "free", "b", unusedSince="2026-01-01T00:00:00Z")
    checkpoint(observer, "used", "c")
    for name, expected in (("free", {"limited", "free"}), ("used", {"used"})):
        due = names(references.changed(CHECKPOINTS, None, observer.checkpoints.get("ns", name)))
        assert due == {f"vllmcheckpoints/{each}" for each in expected}


def test_what_waits_for_all_workers_is_due_with_any_answer(seen: tuple[Observer, References]) -> None:
    observer, references = seen
    checkpoint(observer, "one", "a")
    pool(observer, "p")
    pool(observer, "q")
    key = Key(CHECKPOINTS, "ns", "one")
    assert references.all_asked(key), "nobody runs"
    assert names(references.answered(Key(POOLS, "ns", "q"))) == {"vllmworkerpools/q"}
    running(observer, "p")
    assert not references.all_asked(key)
    assert names(references.answered(Key(POOLS, "ns", "q"))) == {"vllmworkerpools/q", "vllmcheckpoints/one"}
    references.forget(key)
    assert names(references.answered(Key(POOLS, "ns", "q"))) == {"vllmworkerpools/q"}


def test_when_a_pod_goes_any_checkpoint_may_be_unused(seen: tuple[Observer, References]) -> None:
    observer, references = seen
    checkpoint(observer, "one", "a")
    running(observer, "p")
    pod = observer.pods.get("ns", "p-0")
    assert names(references.changed(PODS, pod, None)) == {"vllmworkerpools/p", "vllmcheckpoints/one"}
    assert names(references.changed(PODS, pod, pod)) == {"vllmworkerpools/p"}


def test_what_is_due_when_a_node_comes_or_goes() -> None:
    settings = Settings(node_cache=NodeCache("/c", 1))
    observer, workers = Observer(cast(Client, None), settings, lambda *_: None), Workers()
    references = References(observer, workers)
    told = {"cached": True, "reason": "Hit", "time": "2026-01-01T00:00:00Z"}
    checkpoint(observer, "warm", "a", nodes=[told | {"name": "n1"}])
    checkpoint(observer, "cold", "b")
    entry = observer.wrote(NODES, {"metadata": {"name": "n1", "uid": "n1", "resourceVersion": "5"}})
    known = references.caches(Key(CHECKPOINTS, "ns", "warm"))
    assert known is not None and (known.nodes, known.told) == (frozenset({"n1"}), ())
    assert not names(references.changed(NODES, None, entry)) and not names(references.changed(NODES, entry, entry))
    assert names(references.changed(NODES, entry, None)) == {"vllmcheckpoints/warm"}
    workers.close()


def test_nodes_are_watched_where_they_have_caches_and_may_be_read() -> None:
    for settings, watched in (
        (Settings(), False),
        (Settings(node_cache=NodeCache("/c", 1)), True),
        (Settings(node_cache=NodeCache("/c", 1), namespace="ns"), False),
    ):
        observer = Observer(cast(Client, None), settings, lambda *_: None)
        assert (observer.nodes is not None) == watched, settings
