"""Where the seconds of a start go, as the operator sees them."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from plan.factory import NOW, pending, ready, snapshot, spec, starting, worker
from prometheus_client import REGISTRY
from vernal_contract.state import StartMode
from vernal_operator import metrics
from vernal_operator.kinds import POOLS, Key
from vernal_operator.observe.starts import Starts
from vernal_operator.plan.model import PodView
from vernal_operator.plan.timeline import Timeline, Wish

KEY = Key(POOLS, "ns", "starts")


def total(phase: str, mode: str = "Restored") -> tuple[float, float]:
    """How often, and how many seconds altogether."""
    labels = {"phase": phase, "mode": mode}
    return (
        REGISTRY.get_sample_value("vernal_pool_start_seconds_count", labels) or 0.0,
        REGISTRY.get_sample_value("vernal_pool_start_seconds_sum", labels) or 0.0,
    )


def count(mode: str) -> float | None:
    return REGISTRY.get_sample_value("vernal_pool_starts_total", {"namespace": "ns", "pool": "starts", "mode": mode})


@pytest.fixture
def starts() -> Iterator[Starts]:
    made = Starts()
    yield made
    metrics.forget_pool(KEY.namespace, KEY.name)


def life(restarts: int = 0, mode: StartMode = StartMode.RESTORED) -> list[tuple[float, PodView]]:
    """A pod at the moments at which it changes; it is made 0.2 s after NOW."""
    made = {"created": NOW, "restarts": restarts}
    told = worker(start_mode=mode, timings={"criu": 0.5, "total": 1.5, "made_up": 9.0})
    return [
        (0.2, pending(0, **made)),
        (0.3, pending(0, scheduled=True, **made)),
        (1.0, starting(0, **made)),
        (3.0, replace(ready(0, worker=told, **made), worker=None, polled_at=None)),
        (3.5, ready(0, worker=told, **made)),
    ]


def run(starts: Starts, steps: list[tuple[float, PodView]], *, endpoint: float = 3.25) -> None:
    starts.look(KEY, snapshot(spec(replicas=0), now=NOW - 100))
    starts.look(KEY, snapshot(spec(replicas=1), now=NOW))
    for after, pod in steps:
        if after > endpoint:
            led = frozenset({pod.name})
            starts.look(KEY, snapshot(spec(), steps[-2][1], now=NOW + endpoint, in_endpoints=led))
        led = frozenset({pod.name}) if after >= endpoint else frozenset()
        starts.look(KEY, snapshot(spec(), pod, now=NOW + after, in_endpoints=led))


PHASES = {"operator": 0.2, "schedule": 0.1, "kubelet": 0.7, "worker": 2.0, "endpoint": 0.25, "total": 3.25}


def test_a_start_is_told_by_phase_and_once(starts: Starts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    before = {phase: total(phase) for phase in (*PHASES, "worker/criu", "worker/made_up")}
    steps = life()
    run(starts, steps)
    starts.look(KEY, snapshot(spec(), steps[-1][1], now=NOW + 60, in_endpoints=frozenset({steps[-1][1].name})))
    for phase, seconds in (PHASES | {"worker/criu": 0.5}).items():
        number, together = total(phase)
        assert number == before[phase][0] + 1, phase
        assert together - before[phase][1] == pytest.approx(seconds, abs=1e-6), phase
    assert total("worker/made_up") == before["worker/made_up"], "a worker makes up no series"
    assert sum(PHASES.values()) - PHASES["total"] == pytest.approx(PHASES["total"])
    assert count("Restored") == 1 and count("Cold") is None
    (line,) = [record.message for record in caplog.records if "event=start" in record.message]
    assert "mode=Restored operator=0.200 schedule=0.100 kubelet=0.700 worker=2.000 endpoint=0.250 total=3.250" in line


@pytest.mark.parametrize(("before", "versions"), [(0, (7, 9)), (1, None)], ids=["from zero", "one more of several"])
def test_a_start_is_traced_with_the_versions_between_which_the_pool_left_zero(
    before: int, versions: tuple[int, int] | None
) -> None:
    told: list[tuple[Timeline, str]] = []
    starts, after = Starts(lambda timeline, uid: told.append((timeline, uid))), spec(replicas=before + 1)
    for version in (5, 7):
        starts.look(KEY, snapshot(spec(replicas=before), now=NOW - 100, version=version))
    starts.look(KEY, snapshot(after, now=NOW, version=9))
    for number, (at, pod) in enumerate(life()):
        led = frozenset({pod.name}) if at >= 3 else frozenset()
        starts.look(KEY, snapshot(after, pod, now=NOW + at, version=10 + number, in_endpoints=led))
    ((timeline, uid),) = told
    assert (timeline.wish, uid) == (Wish(NOW, versions), snapshot(after).pool.uid)
    assert (timeline.span.name, timeline.span.begin) == ("start", NOW)
    metrics.forget_pool(KEY.namespace, KEY.name)


def test_another_wish_meanwhile_is_not_this_pods(starts: Starts, caplog: pytest.LogCaptureFixture) -> None:
    """An autoscaler that asks for more while the first worker starts."""
    caplog.set_level("INFO")
    starts.look(KEY, snapshot(spec(replicas=0), now=NOW - 100))
    starts.look(KEY, snapshot(spec(replicas=1), now=NOW))
    for at, pod in life():
        led = frozenset({pod.name}) if at >= 3 else frozenset()
        starts.look(KEY, snapshot(spec(replicas=3 if at > 0.2 else 1), pod, now=NOW + at, in_endpoints=led))
    (line,) = [record.getMessage() for record in caplog.records if "event=start" in record.getMessage()]
    assert "operator=0.200 " in line


def test_cold_starts_are_told_apart(starts: Starts) -> None:
    run(starts, life(mode=StartMode.COLD))
    assert count("Cold") == 1 and count("Restored") is None


def test_a_pod_that_was_there_before_is_not_told_of(starts: Starts) -> None:
    for after, pod in life():
        led = frozenset({pod.name})
        starts.look(KEY, snapshot(spec(), pod, now=NOW + 30 + after, in_endpoints=led))
    assert count("Restored") is None


def test_a_pod_that_comes_back_is_not_told_of_again(starts: Starts) -> None:
    """Its label was taken away for a while."""
    run(starts, life())
    pod = life()[-1][1]
    for at, pods in ((60, ()), (61, (pod,))):
        starts.look(KEY, snapshot(spec(), *pods, now=NOW + at, in_endpoints=frozenset({pod.name})))
    assert count("Restored") == 1


def test_a_pod_that_took_long_to_be_seen_is_told_of(starts: Starts, caplog: pytest.LogCaptureFixture) -> None:
    """The answer to the operator's own request comes ten seconds after the pod was made."""
    caplog.set_level("INFO")
    starts.look(KEY, snapshot(spec(replicas=0), now=NOW - 100))
    starts.look(KEY, snapshot(spec(replicas=1), now=NOW))
    for after, pod in life():
        led = frozenset({pod.name}) if after >= 3 else frozenset()
        starts.look(KEY, snapshot(spec(), pod, now=NOW + 10 + after, in_endpoints=led))
    (line,) = [record.getMessage() for record in caplog.records if "event=start" in record.getMessage()]
    assert "operator=10.200 " in line


def test_a_container_that_was_restarted_is_no_start_of_a_pod(starts: Starts) -> None:
    run(starts, life(restarts=1))
    assert count("Restored") is None


def test_a_pod_for_another_reason_counts_from_itself(starts: Starts) -> None:
    before = total("operator"), total("total")
    starts.look(KEY, snapshot(spec(), now=NOW - 1000))
    run_from_itself = life()
    for after, pod in run_from_itself:
        led = frozenset({pod.name}) if after >= 3 else frozenset()
        starts.look(KEY, snapshot(spec(), pod, now=NOW + after, in_endpoints=led))
    assert total("operator") == before[0]
    assert total("total")[1] - before[1][1] == pytest.approx(2.8)


def test_series_go_with_their_pool(starts: Starts) -> None:
    run(starts, life())
    metrics.ROLLBACKS.labels("ns", "starts").inc()
    metrics.RENEWALS.labels("ns", "starts", "Renewed").inc()
    metrics.POOL_STARTS.labels("ns", "another", "Restored").inc()
    metrics.forget_pool("ns", "starts")
    left = {
        (sample.labels["namespace"], sample.labels["pool"])
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if "pool" in sample.labels
    }
    assert ("ns", "starts") not in left
    assert ("ns", "another") in left
    metrics.forget_pool("ns", "another")


def test_a_pool_of_which_nothing_was_counted_is_forgotten() -> None:
    metrics.forget_pool("ns", "unknown")
