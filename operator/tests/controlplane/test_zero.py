"""To zero and back, again and again, with real processes: nothing lost, nothing done twice, whoever is killed."""

import json
import os
import signal
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from controlplane.cases import POOL, SYSTEM, condition
from controlplane.custom_metrics import CustomMetrics
from controlplane.zero import Asker, lead_to
from controlplane.zero_world import World, end
from patience import GUARD_SECONDS
from vernal_operator.kinds import AUTOSCALERS, PODS, POOLS

pytestmark = pytest.mark.apiserver

CYCLES = int(os.environ.get("VERNAL_ZERO_CYCLES", "3"))
BURST = 8
AT_THE_SWITCH = 3
"""Requests of each cycle that are sent the moment that the Service leads elsewhere."""
MORE_BYTES = 8 << 20
"""That a waker may have grown by after many cycles: an allocator's own, and nothing a cycle."""


class AtTheSwitch(threading.Thread):
    """Sends a request on a new connection whenever the Service begins to lead elsewhere, a few times a cycle."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world, self._left, self._stopped = world, 0, False
        self.failure: BaseException | None = None
        self.start()

    def again(self) -> None:
        self._left = AT_THE_SWITCH

    def stop(self) -> None:
        self._stopped = True
        self.join(GUARD_SECONDS)
        assert self.failure is None, self.failure

    def run(self) -> None:
        try:
            before = self._world.proxy.ready()
            while not self._stopped:
                with self._world.proxy.changed:
                    self._world.proxy.changed.wait(0.1)
                found = self._world.proxy.ready()
                if found != before and self._left:
                    self._left -= 1
                    one = self._world.asker()
                    one.ask()
                    one.close()
                before = found
        except BaseException as error:
            self.failure = error
            raise


def test_cycles_of_zero_burst_zero(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    switch = AtTheSwitch(world)
    keeping = world.asker()  # one connection for all cycles, as long as nobody closes it
    sizes: list[int] = []
    with ThreadPoolExecutor(BURST) as pool_:
        for _ in range(CYCLES):
            world.wait("the pool to be at zero", world.is_asleep)
            switch.again()
            askers = [world.asker() for _ in range(BURST - 1)]
            together = threading.Barrier(BURST)

            def burst(asker: Asker, together: threading.Barrier = together) -> None:
                together.wait(GUARD_SECONDS)
                for _ in range(3):
                    asker.ask()

            for done in [pool_.submit(burst, asker) for asker in (*askers, keeping)]:
                done.result(GUARD_SECONDS)
            world.direct(askers[0])
            for asker in askers:
                asker.close()
            world.check()
            sizes.append(sum(waker.resident for waker in world.wakers))
        world.wait("the pool to be at zero", world.is_asleep)
    switch.stop()
    world.check()
    assert world.tally.answered >= CYCLES * (3 * BURST + 1)
    settled = sizes[min(10, len(sizes) - 1)]
    with capsys.disabled():
        print(
            f"\n{CYCLES} cycles: {world.tally.answered} answered, {len(world.tally.lost)} lost, {len(world.twice())} "
            f"done twice, tried again {dict(world.tally.again)}; wakers {settled >> 10} KiB after the warm-up, "
            f"{sizes[-1] >> 10} KiB at the end"
        )
    assert sizes[-1] - settled <= MORE_BYTES, sizes


def _hold(world: World, count: int, **options: Any) -> tuple[list[threading.Thread], list[Asker]]:
    """Requests that wait at the wakers."""
    world.wait("the pool to be at zero", world.is_asleep)
    world.node.go.clear()
    askers = [world.asker(**options) for _ in range(count)]
    threads = [threading.Thread(target=asker.ask, daemon=True) for asker in askers]
    for thread in threads:
        thread.start()
    world.wait(f"{count} requests to be held", lambda: world.held == count)
    return threads, askers


def test_the_operator_is_killed_while_requests_are_held(world: World) -> None:
    threads, _ = _hold(world, 6)
    world.wait("the pool to be woken", lambda: world.case.get_pool()["spec"]["replicas"] == 1)
    assert world.case.operator is not None
    world.case.operator.kill()
    world.case.wait("it to be dead", lambda: world.case.operator is not None and not world.case.operator.alive)
    world.node.go.set()
    world.case.restart()
    end(world, threads)
    assert world.tally.answered == 6
    world.direct(world.asker())
    world.check()


def test_workers_serve_and_requests_go_through_without_an_operator(world: World) -> None:
    threads, _ = _hold(world, 2)
    world.wait("its pod", lambda: len(world.case.items(PODS)) == 1)
    assert world.case.operator is not None
    world.case.operator.kill()
    world.node.go.set()
    end(world, threads)
    one = world.asker()
    for _ in range(10):  # at the wakers and at the worker: the slice still stands
        one.ask()
        one.close()
    assert world.tally.answered == 12 and world.proxy.leads_to_the_waker()
    world.check()


def test_a_waker_is_killed_while_it_holds(world: World) -> None:
    """Its connections break, without an answer: clients try again, and none of what it held had been done."""
    threads, _ = _hold(world, 10, survives=True)
    victim = max(world.wakers, key=lambda waker: waker.held)
    held = victim.held
    victim.end(signal.SIGKILL)
    world.wakers.remove(victim)
    lead_to(world.case.client, SYSTEM, "vernal-waker", [waker.address for waker in world.wakers])
    world.wait(
        "the Service to lead to the other one", lambda: {a for a, _ in world.proxy.ready()} == {world.wakers[0].address}
    )
    world.wait("all to be held there", lambda: world.wakers[0].held == 10)
    world.node.go.set()
    end(world, threads)
    assert world.tally.answered == 10 and world.tally.again["no answer"] >= held
    world.check()


def test_a_waker_that_is_told_to_go_loses_nothing(world: World) -> None:
    threads, _ = _hold(world, 10)
    leaving = max(world.wakers, key=lambda waker: waker.held)
    lead_to(world.case.client, SYSTEM, "vernal-waker", [w.address for w in world.wakers if w is not leaving])
    ending = threading.Thread(target=leaving.end, daemon=True)
    ending.start()
    world.wait("the Service to lead to the other one", lambda: len(world.proxy.ready()) == 1)
    assert ending.is_alive(), "it holds requests"
    world.node.go.set()
    end(world, [*threads, ending])
    world.wakers.remove(leaving)
    assert world.tally.answered == 10 and not world.tally.again
    world.check()


def test_the_only_worker_is_killed(world: World, tmp_path: Path) -> None:
    """Whom it was answering is told by a broken answer; everybody else waits for the next one, without noticing."""
    world.wait("the pool to be at zero", world.is_asleep)
    one = world.asker()
    one.ask()
    go = tmp_path / "go"
    before = len(world.asked.read_text().split())
    cut = world.asker()
    thread = threading.Thread(target=cut.ask, args=(go,), daemon=True)
    thread.start()
    world.wait("it to be asked", lambda: len(world.asked.read_text().split()) > before and _in_flight(world) == 1)
    (victim,) = world.case.items(PODS)
    crash = threading.Thread(target=world.node.crash, args=(victim,), daemon=True)
    crash.start()
    end(world, [thread, crash])
    assert len(world.tally.lost) == 1, "the one whose answer was cut short is told so"
    world.tally.lost.clear()
    world.wait("a worker, or the waker", lambda: bool(world.proxy.ready()))
    later = world.asker(survives=True)
    for _ in range(3):
        later.ask()
    go.touch()
    assert world.tally.answered == 4 and not world.tally.lost and not world.twice()


def _in_flight(world: World) -> int:
    """Of the only worker; 0 while there is none: the pool may have gone to zero in between."""
    pods = world.case.items(PODS)
    if len(pods) == 1 and "podIP" in pods[0].get("status", {}):
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{pods[0]['status']['podIP']}:{world.node.port}/state") as answer,
        ):
            return int(json.loads(answer.read())["inFlight"])
    return 0


def test_a_larger_number_is_never_undone(world: World) -> None:
    """A waker that asks for one worker while somebody has asked for three."""
    threads, _ = _hold(world, 4)
    world.wait("the pool to be woken", lambda: world.case.get_pool()["spec"]["replicas"] == 1)
    world.case.client.patch(POOLS, world.case.namespace, POOL, {"spec": {"replicas": 3}}, "scale")
    awake = 'vernal_waker_scale_requests_total{result="awake"}'
    before = sum(waker.metric(awake) for waker in world.wakers)
    world.wait("to be asked again", lambda: sum(waker.metric(awake) for waker in world.wakers) >= before + 2)
    assert world.case.get_pool()["spec"]["replicas"] == 3
    world.node.go.set()
    end(world, threads)
    world.check()


def test_a_real_hpa_follows_the_pools_pressure_and_leaves_zero_alone(world: World, tmp_path: Path) -> None:
    """From a worker's load to the operator's metric, the custom metrics API, the HPA, /scale, and back to zero."""
    metrics = CustomMetrics(world.case.client, world.case.namespace, world.case.server.ca.parent, world.metrics_port)
    go = tmp_path / "go"
    askers = [world.asker() for _ in range(16)]  # a worker of `workers` has room for 8
    threads = [threading.Thread(target=asker.ask, args=(go,), daemon=True) for asker in askers]
    for thread in threads:
        thread.start()

    def ready() -> int:
        return sum(condition(pod, "Ready") == "True" for pod in world.case.items(PODS))

    world.wait("three workers", lambda: world.case.get_pool()["spec"]["replicas"] == 3 and ready() == 3)
    assert metrics.asked > 0
    go.touch()
    end(world, threads)
    world.wait("the pool to be at zero", world.is_asleep)
    world.wait("the HPA to stand aside", lambda: _scaling_active(world) == "ScalingDisabled")
    assert world.tally.answered == 16
    world.check()
    metrics.close()


def _scaling_active(world: World) -> str:
    (found,) = world.case.items(AUTOSCALERS)
    reasons = [c["reason"] for c in found["status"].get("conditions", []) if c["type"] == "ScalingActive"]
    return str(reasons[0]) if reasons else ""
