"""A start's spans: what lies in what, in which order, and that they say what the log line says."""

import itertools
import json
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.semconv._incubating.attributes import k8s_attributes
from plan.factory import IDENTITY, NOW, artifact, pool, ready, worker
from vernal_contract import wakes
from vernal_contract.state import StartMode
from vernal_contract.wakes import Wake
from vernal_operator import spans
from vernal_operator.plan.timeline import MOMENTS, WISH_SECONDS, Timeline, Wish, timeline
from vernal_operator.spans import Span, laid
from vernal_waker.routes import PoolName
from vernal_waker.timeline import wake

CLOSE = 1e-5
"""Seconds since the epoch are that fine, as floats, after some sums."""
seconds = st.floats(0, 500)
SUPERVISOR = ("find", "verify", "criu", "weights", "canary", "total", "made_up")


def every(span: Span) -> list[Span]:
    return [span, *(found for child in span.children for found in every(child))]


def check(span: Span) -> None:
    """Children lie in their parents, and begin in their order."""
    assert span.begin <= span.end
    for child in span.children:
        assert span.begin <= child.begin and child.end <= span.end, (span, child)
        check(child)


@st.composite
def starts(draw: st.DrawFn) -> tuple[Timeline, dict[str, float], float]:
    """A start, what its worker said, and the seconds from the wish to the pod."""
    waits = draw(st.lists(seconds, min_size=5, max_size=5))
    moments, at = {}, NOW
    for name, wait in zip(MOMENTS, waits, strict=True):
        at += wait
        moments[name] = at
    for name in draw(st.sets(st.sampled_from(MOMENTS[1:-1]))):
        del moments[name]  # seen together with a later one
    timings = draw(st.dictionaries(st.sampled_from(SUPERVISOR), st.floats(-1, 1000)))
    wish = draw(st.sampled_from([None, Wish(NOW), Wish(NOW, (1, 2)), Wish(NOW + 1e6, (1, 2))]))
    begun = draw(st.dictionaries(st.sampled_from(SUPERVISOR), st.floats(-10, 2000)))
    if draw(st.booleans()):
        begun |= {name: draw(st.floats(-10, 2000)) for name in timings}
    told = worker(timings=timings, begun=begun, uptime=draw(st.floats(-10, 2000)), start_mode=StartMode.RESTORED)
    pod = ready(worker=told, answered_at=draw(st.one_of(st.none(), st.floats(NOW, NOW + 3000))))
    return timeline(pool(), pod, told, moments, wish), timings, waits[0]


@given(starts())
def test_spans_lie_in_each_other_and_last_what_the_line_says(start: tuple[Timeline, dict[str, float], float]) -> None:
    told, timings, waited = start
    check(told.span)
    steps = told.span.children
    names = [step.name for step in steps]
    assert names[-4:] == ["schedule", "kubelet", "worker", "endpoint"]
    assert (names[0] == "operator") == (waited <= WISH_SECONDS and "operator" in told.phases)
    for step, after in itertools.pairwise(steps):
        assert step.end == after.begin, "no time is lost between two phases"
    assert (steps[0].begin, steps[-1].end) == (told.span.begin, told.span.end)
    assert {step.name: step.seconds for step in steps} == {k: told.phases[k] for k in names}
    assert told.phases["total"] == told.span.seconds
    own = {f"worker/{name}": value for name, value in timings.items() if name != "made_up"}
    assert own == {name: value for name, value in told.phases.items() if "/" in name}
    (of_worker,) = (step for step in steps if step.name == "worker")
    assert {child.name for child in of_worker.children} == own.keys() - {"worker/total"}
    for child in of_worker.children:
        said = max(0.0, own[child.name])
        assert child.seconds == pytest.approx(min(said, of_worker.seconds), abs=CLOSE), child.name
    assert (told.wish is not None) == (names[0] == "operator")


@given(st.lists(st.tuples(st.text(), seconds)), seconds)
def test_steps_are_laid_end_to_end_as_long_as_there_is_room(steps: list[tuple[str, float]], room: float) -> None:
    made = laid(steps, NOW, NOW + room)
    assert [span.name for span in made] == [name for name, _ in steps]
    at, total = NOW, 0.0
    for span, (_, wanted) in zip(made, steps, strict=True):
        total += wanted
        assert NOW <= span.begin <= span.end <= NOW + room
        assert span.seconds == pytest.approx(min(wanted, room), abs=CLOSE)
        if total <= room - 1e-3:
            assert span.begin == at
        at = span.end


def test_a_start_in_full() -> None:
    told = worker(timings={"criu": 0.5, "canary": 0.25, "total": 1.5, "made_up": 9.0}, uptime=1.75)
    pod = ready(worker=told, node="n1", answered_at=NOW + 3.0)
    moments = {"pod": NOW + 0.5, "node": NOW + 0.75, "running": NOW + 1.0, "ready": NOW + 3.0, "endpoint": NOW + 3.25}
    found = timeline(pool(), pod, told, moments, Wish(NOW, (1, 2)))
    assert found.wish == Wish(NOW, (1, 2))
    assert [(s.name, s.begin - NOW, s.end - NOW) for s in every(found.span)] == [
        ("start", 0.0, 3.25),
        ("operator", 0.0, 0.5),
        ("schedule", 0.5, 0.75),
        ("kubelet", 0.75, 1.0),
        ("worker", 1.0, 3.0),
        ("worker/criu", 1.25, 1.75),
        ("worker/canary", 1.75, 2.0),
        ("endpoint", 3.0, 3.25),
    ]
    assert found.span.attributes == {
        "k8s.namespace.name": "ns", "k8s.pod.name": pod.name, "k8s.pod.uid": pod.uid, "k8s.node.name": "n1",
        "vernal.pool.name": "p", "vernal.pool.revision": pod.revision, "vernal.start.mode": "Restored",
            "vernal.start.reason": "Restored",
        "vernal.checkpoint.identity": IDENTITY, "vernal.checkpoint.generation": artifact().generation,
    }  # fmt: skip


def test_phases_lie_where_the_worker_says() -> None:
    """Two side by side, and one that was over before the pod was seen to run."""
    said = {"weights": 1.0, "criu": 0.5, "identity": 0.25}
    begun = {"weights": 0.5, "criu": 0.25, "identity": 0.0}
    told = worker(timings=said, begun=begun, uptime=2.0)
    pod = ready(worker=told, answered_at=NOW + 3.0)
    moments = {"pod": NOW, "node": NOW, "running": NOW + 1.125, "ready": NOW + 3.0, "endpoint": NOW + 3.0}
    found = timeline(pool(), pod, told, moments, None)
    assert [(s.name, s.begin - NOW, s.end - NOW) for s in every(found.span) if "/" in s.name] == [
        ("worker/identity", 1.125, 1.375),
        ("worker/criu", 1.25, 1.75),
        ("worker/weights", 1.5, 2.5),
    ]


def test_names_are_those_of_the_conventions() -> None:
    assert spans.NAMESPACE == k8s_attributes.K8S_NAMESPACE_NAME
    assert spans.POD == k8s_attributes.K8S_POD_NAME
    assert spans.POD_UID == k8s_attributes.K8S_POD_UID
    assert spans.NODE == k8s_attributes.K8S_NODE_NAME


@given(seconds, st.dictionaries(st.sampled_from(["asked", "endpoint", "first_byte"]), seconds))
def test_a_wakes_spans_lie_in_each_other(lasted: float, phases: dict[str, float]) -> None:
    span = wake(PoolName("ns", "p"), NOW, lasted, phases, "gone")
    check(span)
    assert span.children[0].begin == span.begin == NOW


@given(st.lists(seconds, min_size=3, max_size=3).map(sorted))
def test_a_wakes_spans_last_what_the_line_says(times: list[float]) -> None:
    phases = dict(zip(("asked", "endpoint", "first_byte"), times, strict=True))
    span = wake(PoolName("ns", "p"), NOW, times[-1], phases, "answered")
    found: dict[str, Any] = {one.name: one for one in every(span)}
    assert list(found) == ["wake", "held", "scale", "first_byte"]
    assert found["scale"].seconds == pytest.approx(phases["asked"], abs=CLOSE)
    assert found["held"].end - NOW == pytest.approx(phases["endpoint"], abs=CLOSE)
    assert found["first_byte"].end - NOW == pytest.approx(phases["first_byte"], abs=CLOSE)
    assert found["held"].end == found["first_byte"].begin


def trace(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


class Life(NamedTuple):
    """Of a pool: its replicas by resourceVersion, the waker's writes, and at which versions the operator looked."""

    replicas: list[int]
    wakes: list[Wake]
    looks: list[int]


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Goes to zero and back by whomever, while the operator sees but some of the versions."""
    replicas, wakes = [0], []
    for who in draw(st.lists(st.sampled_from(["waker", "person", "to zero", "status"]), min_size=1, max_size=20)):
        at = replicas[-1]
        if who == "waker" and at == 0:
            wakes.append(Wake("u", len(replicas) + 1, trace(len(replicas) + 1)))
        replicas.append({"waker": at or 1, "person": at + 1, "to zero": 0, "status": at}[who])
    looks = draw(st.sets(st.integers(1, len(replicas)), min_size=1))
    return Life(replicas, wakes, sorted(looks))


@given(lives())
def test_a_start_from_zero_is_that_of_the_last_wake_since_the_pool_was_seen_at_zero(life: Life) -> None:
    others = [Wake("v", version, trace(99)) for version in range(1, len(life.replicas) + 1)]
    told = []
    for before, now in itertools.pairwise(life.looks):
        if life.replicas[before - 1] == 0 and life.replicas[now - 1] > 0:
            found = Wish(NOW, (before, now)).trace("u", [*life.wakes, *others])
            between = [wake.traceparent for wake in life.wakes if wake.version in range(before + 1, now + 1)]
            assert found == (between[-1] if between else "")
            told.append(found)
    assert len(set(filter(None, told))) == len(list(filter(None, told))), "no wake is that of two starts"


def test_where_the_pool_was_not_at_zero_nobody_has_woken_it() -> None:
    assert Wish(NOW).trace("u", [Wake("u", 1, trace(1))]) == ""


@given(lives())
def test_wakes_are_told_and_read(life: Life) -> None:
    assert wakes.decode(wakes.encode(life.wakes)) == life.wakes


def test_the_longest_answer_may_be_read() -> None:
    many = [Wake("u" * 128, 2**63 - 1 - number, trace(number)) for number in range(2 * wakes.MOST)]
    data = wakes.encode(many)
    assert len(data) <= wakes.MAX_BYTES and wakes.decode(data) == many[-wakes.MOST :], "the newest ones"


@pytest.mark.parametrize(
    "wake",
    [
        {"uid": "u", "version": 0, "traceparent": trace(1)},
        {"uid": "u", "version": 2**63, "traceparent": trace(1)},
        {"uid": "u" * 129, "version": 1, "traceparent": trace(1)},
        {"uid": "u", "version": 1, "traceparent": trace(1) + "\n"},
        {"uid": "u", "version": 1, "traceparent": trace(10).upper()},
        {"uid": "u", "version": 1, "traceparent": "01-" + trace(1)[3:]},
        {"uid": "u", "version": 1},
    ],
)
def test_what_is_no_wake_is_read_as_none(wake: dict[str, Any]) -> None:
    with pytest.raises(msgspec.DecodeError):
        wakes.decode(json.dumps({"wakes": [wake]}).encode())
    one = {"uid": "u", "version": 1, "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    with pytest.raises(msgspec.DecodeError):
        wakes.decode(json.dumps({"wakes": [one] * (wakes.MOST + 1)}).encode())
    assert len(wakes.decode(json.dumps({"wakes": [one | {"ofTomorrow": {}}], "more": 1}).encode())) == 1
