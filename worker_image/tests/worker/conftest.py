"""Workers in pods, and a store that is filled once.

A cold start costs half a minute of mostly one core, a thaw two seconds. So there is one creator, everything
else thaws its checkpoint, and the cold starts that cannot be avoided run side by side (`cold_batch`).
"""

import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import GUARD_SECONDS, until
from vernal_worker.control.client import EngineClient, UnreachableError

sys.path.insert(0, str(Path(__file__).parent))  # for harm and worker_pod
from harm import BIG_FILE, damage, flip_a_bit
from worker_pod import HOLDING, PLANTED, WARM, Pod

HERE = Path(__file__).parent

StartPod = Callable[..., Pod]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def criu() -> Path:
    if os.geteuid() != 0:
        pytest.fail("these tests need root: they make namespaces and freeze processes")
    from images.criu import criu_path

    return criu_path()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models.tiny import make_tiny_model

    path = tmp_path_factory.mktemp("model")
    make_tiny_model(path)
    return path


@pytest.fixture(scope="session")
def start_pod_for_session(criu: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartPod]:
    yield from _starter(criu, model, tmp_path_factory.mktemp("session-logs"))


@pytest.fixture
def start_pod(criu: Path, model: Path, tmp_path: Path) -> Iterator[StartPod]:
    """Start a worker on the store that is given; it is taken away after the test."""
    yield from _starter(criu, model, tmp_path)


_numbers = itertools.count(1)


def _starter(criu: Path, model: Path, logs: Path) -> Iterator[StartPod]:
    pods: list[Pod] = []

    def start(store: Path, **options: Any) -> Pod:
        name = f"pod-{next(_numbers)}"
        directory = options.pop("model", model)
        options["engine_args"] = HOLDING | options.pop("engine_args", {})
        pods.append(Pod(name, logs / f"{name}.log", store, directory, criu, **options))
        return pods[-1]

    yield start
    for pod in pods:
        pod.end()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that `creator` fills. Tests that write to it take `damaged` copies."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def first_workers(request: pytest.FixtureRequest, start_pod_for_session: StartPod, store: Path) -> list[Pod]:
    """Those that start on the empty store, all ready. If their race is tested (`test_races.py`) they are three, and a
    fourth was killed while it started; else one, which is sooner there."""
    racing = any(item.path.name == "test_races.py" and item.path.parent == HERE for item in request.session.items)
    few = "ulimit -n 1024"  # as in many containers; CRIU gives the clones' engines the same
    same = {"setup": few, "secrets": {"PLANTED": PLANTED}, "checkpoint": WARM}  # or they would race for other artifacts
    if racing:
        dead = start_pod_for_session(store, **same)
        dead.wait_log("event=engine_start")
        (lease,) = [path for path in (store / "leases").iterdir() if path.suffix != ".beat"]
        os.kill(dead.init, signal.SIGKILL)
        dead.wait()
        assert lease.exists(), "nobody gave it back"
    pods = [start_pod_for_session(store, **same) for _ in range(3 if racing else 1)]
    for pod in pods:
        pod.wait_ready()
    return pods


@pytest.fixture(scope="session")
def creator(first_workers: list[Pod]) -> Pod:
    """The first worker of a pool, ready: it started cold and published its checkpoint."""
    (pod,) = [pod for pod in first_workers if "outcome=Published " in pod.log()]
    return pod


@pytest.fixture
def thawed(creator: Pod, store: Path, start_pod: StartPod) -> Callable[..., Pod]:
    """Start a worker that thaws; returns it when it is ready."""

    def start(**options: Any) -> Pod:
        pod = start_pod(store, **options)
        state = pod.wait_ready()
        assert state.start_mode == "Restored", pod.log()
        return pod

    return start


@pytest.fixture(scope="session")
def cold_batch(
    creator: Pod, store: Path, start_pod_for_session: StartPod, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Pod]:
    """Workers that start cold for different reasons, side by side."""
    places = tmp_path_factory.mktemp("stores")
    (places / "full").mkdir()
    (places / "interrupted").mkdir()
    (places / "refused").mkdir()
    flipped = damage(store, places / "flipped", BIG_FILE, flip_a_bit)
    start = start_pod_for_session
    pods = {
        "flipped": start(flipped, checkpoint={"restore_attempts": 1}),
        "full": start(places / "full", setup="mount -t tmpfs -o size=64m tmpfs /var/lib/vernal/store"),
        "interrupted": start(places / "interrupted"),
        "refused": start(places / "refused"),
    }
    threading.Thread(target=_signal_in_freeze, args=[pods["interrupted"]], daemon=True).start()
    threading.Thread(target=_listen_too_early, args=[pods["refused"]], daemon=True).start()
    return pods


def _signal_in_freeze(pod: Pod) -> None:
    """The moment comes while tests of the other pods run."""
    pod.wait_log("phase=Freezing")
    pod.signal()


def _listen_too_early(pod: Pod) -> None:
    """Let the engine serve before process 1 comes to freeze it: it refuses to become quiet then. Process 1 stands still
    meanwhile, and so does not ask first."""
    pod.wait_log("event=engine_start")  # which is said before it is done
    until("the engine's process", lambda: any(" -m vernal_worker.engine.main" in c for c in pod.processes().values()))
    os.kill(pod.init, signal.SIGSTOP)
    try:
        client = EngineClient(f"/proc/{pod.init}/root/run/vernal/engine.sock")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            while pod.alive():
                try:
                    client.listen(listener, 60, GUARD_SECONDS)
                    break
                except UnreachableError:
                    time.sleep(0.2)
    finally:  # or whoever waits for the pod waits as long as a guard
        os.kill(pod.init, signal.SIGCONT)
