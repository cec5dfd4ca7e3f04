"""What a freeze that failed is called, and what becomes of its engine."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from vernal_contract.config import ModelConfig, WorkerConfig, encode
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.names import ENV_CONFIG
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome, Phase, WorkerState
from vernal_worker.checkpoint.tree import ProcessTree
from vernal_worker.control import protocol
from vernal_worker.control.client import CallCancelledError, RefusedError, TimedOutError
from vernal_worker.control.protocol import Answer, AnyCommand, Canary
from vernal_worker.control.server import ControlServer
from vernal_worker.store.store import Store
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.context import Context, read_settings
from vernal_worker.supervisor.creation import Creation, EngineHarmedError, _explained
from vernal_worker.supervisor.engine import Engine
from vernal_worker.supervisor.environment import RunPaths
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.stop import Stop


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RefusedError("StoreWeights: Exception: [Errno 28] No space left on device"),
            Reason.STORE_FULL,
        ),
        (RefusedError("StoreWeights: OSError: [Errno 122] Disk quota exceeded"), Reason.STORE_FULL),
        (RefusedError("Quiesce: RuntimeError: a request is still running"), Reason.ENGINE_UNRESPONSIVE),
        (TimedOutError("Quiesce: no answer from the engine in time"), Reason.ENGINE_UNRESPONSIVE),
        (CallCancelledError("Quiesce: given up"), Reason.FREEZE_GIVEN_UP),
    ],
)
def test_what_the_engine_says_of_the_storage_is_the_storage_s(error: Exception, reason: Reason) -> None:
    found, message = _explained(error)  # type: ignore[arg-type]
    assert (found, message) == (reason, str(error))


INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")
GOOD, BAD = (Canary(prompts=[[1]], answers=[[token]]) for token in (2, 3))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Of a worker whose dumps fail at once, with the engine as it was."""
    config = WorkerConfig(pool="p", namespace="n", revision="r", model=ModelConfig(name="m"))
    settings = read_settings({"PATH": "/bin", ENV_CONFIG: encode(config), "VERNAL_CRIU": "/nonexistent/criu"})
    state = WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING)
    return Context(replace(settings, paths=RunPaths(tmp_path / "run")), Board(state), Stop(), Reaper())


@pytest.fixture
def speaking(tmp_path: Path) -> Iterator[Callable[..., tuple[Engine, list[str]]]]:
    """A process, and the control socket's own server, which answers with these canaries and notes what it was told."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    process = subprocess.Popen(["sleep", "infinity"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    path = str(tmp_path / protocol.SOCKET_NAME)

    def start(canaries: list[Canary], unfreezable: str | None = None) -> tuple[Engine, list[str]]:
        told: list[str] = []
        answers = iter(canaries)

        async def handle(command: AnyCommand, _: list[int]) -> Answer:
            told.append(type(command).__name__)
            match command:
                case protocol.RunCanary():
                    return next(answers)
                case protocol.GetStatus():
                    return protocol.EngineStatus(
                        serving=protocol.Serving.CLOSED, in_flight=0, accepted_total=0, unfreezable=unfreezable
                    )
                case protocol.WarmUp():
                    return protocol.Warmed(seconds={})
            return protocol.Done()

        ControlServer(path, handle, loop).start()
        tree = ProcessTree(process.pid, process.stdout.fileno(), process.stderr.fileno(), os.pidfd_open(process.pid))
        return Engine(tree, path, threading.Event()), told

    yield start
    process.kill()
    process.communicate()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.mark.parametrize("then", [GOOD, BAD], ids=["as before", "other answers"])
def test_an_engine_whose_dump_failed_is_asked_before_it_serves(
    context: Context, speaking: Callable[..., tuple[Engine, list[str]]], tmp_path: Path, then: Canary
) -> None:
    """It was quiet and woke up again: whether all of it came back is not known otherwise."""
    (tmp_path / "store").mkdir()
    engine, told = speaking([GOOD, then, then])
    with Creation(context, Store(tmp_path / "store"), INPUTS, HOST) as creation:
        if then is GOOD:
            creation.freeze(engine)
        else:
            with pytest.raises(EngineHarmedError) as harmed:
                creation.freeze(engine)
            assert harmed.value.reason is Reason.CANARY_MISMATCH
    asked = 1 if then is GOOD else 2  # oracle.TRIES
    assert told == ["GetStatus", "WarmUp", "RunCanary", "Quiesce", *["RunCanary"] * asked]
    report = context.board.snapshot().freeze
    assert report is not None and report.outcome is FreezeOutcome.FAILED
    assert report.reason == (Reason.CRIU_MISSING if then is GOOD else Reason.CANARY_MISMATCH)


def test_an_engine_that_is_never_frozen_is_not_prepared_for_it(
    context: Context, speaking: Callable[..., tuple[Engine, list[str]]], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    why = "its answers cannot be checked: its tasks are transcription"
    engine, told = speaking([], why)
    with Creation(context, Store(tmp_path / "store"), INPUTS, HOST) as creation:
        creation.freeze(engine)
    assert told == ["GetStatus"]
    report = context.board.snapshot().freeze
    assert report is not None
    assert (report.outcome, report.reason, report.message) == (
        FreezeOutcome.SKIPPED,
        Reason.ENGINE_UNFREEZABLE,
        why,
    )


class Killed(BaseException):
    """SIGKILL to the whole container: nothing of process 1 runs after it."""


def test_a_freeze_that_kills_its_container_is_not_begun_again_for_ever(
    context: Context, speaking: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "run").mkdir()
    engine, _ = speaking([GOOD] * 9)
    begun: list[int] = []

    def killed(*_: Any) -> Any:
        begun.append(1)
        raise Killed

    monkeypatch.setattr(Creation, "_freeze", killed)
    for _ in range(3):  # the kubelet's restarts
        with suppress(Killed), Creation(context, Store(tmp_path / "store"), INPUTS, HOST) as creation:
            creation.freeze(engine)
            break  # it serves
    assert len(begun) == 1, f"{len(begun)} containers in a row were killed by their freeze; none served"
    report = context.board.snapshot().freeze
    assert report is not None and report.outcome is FreezeOutcome.FAILED
    assert report.reason == Reason.CONTAINER_KILLED
