"""What a worker says of an engine that does not answer: that it does not know, and not what was so before."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.config import ModelConfig, WorkerConfig, encode
from vernal_contract.names import ENV_CONFIG
from vernal_contract.state import Phase, WorkerState
from vernal_worker.control import protocol
from vernal_worker.control.client import EngineClient
from vernal_worker.control.server import ControlServer
from vernal_worker.supervisor import worker as worker_module
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.context import Context, read_settings
from vernal_worker.supervisor.engine import Monitor
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.stop import Stop
from vernal_worker.supervisor.worker import Worker

PATIENCE = 0.2
"""Of the worker with an engine that the test holds back."""


class Engine:
    """The engine's side of a control socket: two requests in flight, and an answer while `answers` is set."""

    def __init__(self, path: str) -> None:
        self.answers = True
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        ControlServer(path, self._handle, self.loop).start()

    async def _handle(self, command: protocol.AnyCommand, _: list[int]) -> protocol.Answer:
        if not self.answers:
            await asyncio.Event().wait()
        return protocol.EngineStatus(serving=protocol.Serving.OPEN, in_flight=2, accepted_total=9)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(str(tmp_path / protocol.SOCKET_NAME))
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    config = WorkerConfig(pool="p", namespace="n", revision="r", model=ModelConfig(name="m"))
    state = WorkerState(pod="p", namespace="n", pool="o", revision="r", phase=Phase.READY)
    settings = read_settings({"PATH": "/bin", ENV_CONFIG: encode(config)})
    return Worker(Context(settings, Board(state), Stop(), Reaper()))


def running(tmp_path: Path) -> Any:
    client = EngineClient(str(tmp_path / protocol.SOCKET_NAME))
    return SimpleNamespace(patient_client=client, tree=SimpleNamespace(poll=lambda: None))


def test_requests_in_flight_are_not_known(
    worker: Worker,
    engine: Engine,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = running(tmp_path)
    worker._monitor = Monitor(tree)
    worker._look_after(tree, GUARD_SECONDS)
    worker._say(1, 5.0)
    assert "event=draining seconds_left=5.000 in_flight=2" in capfd.readouterr().out
    until("an answer in time", lambda: worker.state().load is not None)
    until("an answer in time", lambda: "vernal_worker_requests_in_flight 2.0" in worker.metrics())
    engine.answers = False
    assert worker._look_after(tree, PATIENCE) is None
    worker._say(1, 5.0)
    assert "event=draining seconds_left=5.000 in_flight=unknown" in capfd.readouterr().out
    monkeypatch.setattr(worker_module, "KNOWN_SECONDS", GUARD_SECONDS)
    assert worker.state().load is not None, "one that is only late is spoken for"
    monkeypatch.setattr(worker_module, "KNOWN_SECONDS", 0.0)
    assert worker.state().load is None, "nobody decides by numbers that were so before"
    assert "vernal_worker_requests_in_flight 2" not in worker.metrics()
