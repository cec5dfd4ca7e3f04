"""A start from zero as OpenTelemetry's collector is told of it, beside what the logs say."""

import re
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from controlplane.cases import POOL
from controlplane.collector import Collector, Received
from controlplane.zero_world import World, end
from vernal_operator.kinds import PODS, POOLS

pytestmark = pytest.mark.apiserver

PHASES = ["operator", "schedule", "kubelet", "worker", "endpoint"]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
"""Of the example in W3C Trace Context."""


def _told(text: str, event: str, pool_: str) -> dict[str, float]:
    """The seconds of the last line of an event in a log."""
    line = [line for line in text.splitlines() if f"event={event} pool={pool_} " in line][-1]
    return {name: float(value) for name, value in re.findall(r"([\w/]+)=(\d+\.\d{3})\b", line)}


def _children(of: Received, spans: list[Received]) -> list[Received]:
    found = [span for span in spans if span.parent == of.id]
    for span in found:
        assert span.trace == of.trace and of.begin <= span.begin <= span.end
    return found


def test_a_start_from_zero_is_one_trace(world: World, collector: Collector, tmp_path: Path) -> None:
    """From the client's own span over the waker's to the operator's, and on to the worker."""
    world.wait("the pool to be at zero", world.is_asleep)
    one, go = world.asker(), tmp_path / "go"  # without which the pool is not idle
    patient = {"spec": {"autoscaling": {"idleSeconds": 5}}}  # a worker is found before it counts as idle
    world.case.client.patch(POOLS, world.case.namespace, POOL, patient)
    one.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
    one.headers["tracestate"] = "vendor=1"
    thread = threading.Thread(target=one.ask, args=(go,), daemon=True)
    thread.start()

    def mine() -> list[Received]:
        return [s for s in collector.spans if s.attributes.get("k8s.namespace.name") == world.case.namespace]

    world.wait("its spans", lambda: {"wake", "start"} <= {span.name for span in mine()})
    spans = mine()
    (wake,) = [span for span in spans if span.name == "wake"]
    (start,) = [span for span in spans if span.name == "start"]
    assert {span.trace for span in spans} == {TRACE}, "one trace"
    assert (wake.service, start.service) == ("vernal-waker", "vernal-operator")
    assert (wake.parent, start.parent) == (PARENT, wake.id)
    assert [span.name for span in _children(wake, spans)] == ["held", "start", "first_byte"]
    phases = _children(start, spans)
    assert [span.name for span in phases] == PHASES
    assert all(span.end <= start.end for span in phases)
    (pod,) = world.case.items(PODS)
    known = {
        "k8s.namespace.name": world.case.namespace, "k8s.pod.name": pod["metadata"]["name"],
        "k8s.pod.uid": pod["metadata"]["uid"], "k8s.node.name": "node", "vernal.pool.name": POOL,
        "vernal.start.mode": "Cold",
    }  # fmt: skip
    for span in (start, *phases):
        assert known.items() <= span.attributes.items() and len(span.attributes["vernal.checkpoint.identity"]) == 64
    name = f"{world.case.namespace}/{POOL}"
    lines = _told(world.case.log.read_text(), "start", name)
    assert {**{span.name: span.seconds for span in phases}, "total": start.seconds} == pytest.approx(
        {name: seconds for name, seconds in lines.items() if "/" not in name}, abs=0.002
    )
    logs = "".join(file.read_text() for file in world.case.server.directory.glob("waker-*.log"))
    told, (held, _, first_byte) = _told(logs, "wake", name), _children(wake, spans)
    (scale,) = _children(held, spans)
    seconds = [scale.seconds, held.seconds, held.seconds + first_byte.seconds]
    assert seconds == pytest.approx([told["asked"], told["endpoint"], told["first_byte"]], abs=0.002)

    world.case.client.patch(POOLS, world.case.namespace, POOL, {"spec": {"replicas": 2}}, "scale")
    world.wait("another start", lambda: len([span for span in mine() if span.name == "start"]) == 2)
    (other,) = [span for span in mine() if span.name == "start" and span.id != start.id]
    assert other.parent == "" and other.trace != TRACE, "somebody else has asked for this one"
    assert [span.name for span in _children(other, mine())] == PHASES
    assert other.attributes["vernal.start.mode"] == "Restored"
    go.touch()
    end(world, [thread])
    assert world.tally.answered == 1 and one.answered_with is not None
    seen = one.answered_with["x-seen-traceparent"], one.answered_with["x-seen-tracestate"]
    assert seen == (f"00-{TRACE}-{wake.id}-01", "vendor=1")

    def have(names: Counter[str]) -> bool:
        return names <= Counter(span.name for span in mine())

    for later in (1, 2):  # Kubernetes treats the first write to `replicas` in another way than those that follow
        world.wait("the pool to be at zero", world.is_asleep)
        before = {span.trace for span in mine()}
        world.asker().ask()
        names = Counter({"wake": 1 + later, "start": 2 + later})
        world.wait("another wake and its start", partial(have, names))
        new = [span for span in mine() if span.trace not in before]
        assert len({span.trace for span in new}) == 1, "one trace"
        (root,) = [span for span in new if not span.parent]
        assert (root.name, root.service) == ("wake", "vernal-waker")
        assert [span.name for span in _children(root, new)] == ["held", "start", "first_byte"]
        (start,) = [span for span in new if span.name == "start"]
        assert [span.name for span in _children(start, new)] == PHASES
    world.wait("the pool to be at zero", world.is_asleep)
    assert Counter(span.name for span in mine() if span.name in ("wake", "start")) == names, "and no other"
    world.check()
