"""When the CUDA helper ends: nobody who has an engine waits for it, and nobody who has none goes on before."""

import subprocess
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from patience import GUARD_SECONDS
from vernal_contract.config import CheckpointPolicy
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint.cuda import launch
from vernal_worker.supervisor import gpu
from vernal_worker.supervisor.choose import Cold
from vernal_worker.supervisor.context import Context
from vernal_worker.supervisor.start import Start
from vernal_worker.supervisor.steps import Steps

REAL_END = launch.end


class Held:
    """The end of a helper, which takes until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked = threading.Event()
        self.helper: subprocess.Popen[bytes] | None = None

    def __call__(self, process: "subprocess.Popen[bytes]") -> bool:
        self.helper = process
        self.asked.set()
        assert self.release.wait(GUARD_SECONDS)
        return REAL_END(process)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    found = Held()
    monkeypatch.setattr(launch, "end", found)
    monkeypatch.setattr(gpu, "gpus", lambda: SimpleNamespace(count=1))
    return found


def context() -> Context:
    """What of it this needs."""
    settings = SimpleNamespace(config=SimpleNamespace(checkpoint=SimpleNamespace(policy=CheckpointPolicy.AUTO)))
    found: Any = SimpleNamespace(settings=settings, stop=SimpleNamespace(signalled=threading.Event()))
    return cast(Context, found)


def test_behind_a_start_the_helper_ends_by_itself(held: Held) -> None:
    with gpu.opened(context()) as opened:
        assert opened is not None
    assert held.asked.wait(GUARD_SECONDS)
    assert held.helper is not None and held.helper.poll() is None, "the start is over, and the helper is not"
    held.release.set()
    held.helper.wait(GUARD_SECONDS)


def test_a_start_that_failed_has_left_nothing_on_a_gpu(held: Held) -> None:
    held.release.set()
    with pytest.raises(ValueError, match="no engine"), gpu.opened(context()):
        raise ValueError("no engine")
    assert held.helper is not None and held.helper.returncode is not None


def test_where_no_thread_can_be_had_the_end_is_waited_for(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    held.release.set()
    monkeypatch.setattr(gpu, "keep_running", refuse)
    with gpu.opened(context()):
        pass
    assert held.helper is not None and held.helper.returncode is not None


def test_a_cold_start_has_nothing_of_a_helper_in_its_way(held: Held) -> None:
    """vLLM measures what is free: the helper that a thaw would have needed is gone before."""
    board: Any = SimpleNamespace(update=lambda **_: None, phase=lambda *_, **__: None)
    gone: list[bool] = []

    def launched(gpus: gpu.Gpu, *, freezable: bool) -> object:
        assert held.helper is not None
        gone.append(held.helper.poll() is not None)
        return object()

    steps: Any = SimpleNamespace(
        prepare=lambda: None,
        choose=lambda: Cold(reason=Reason.POLICY_DISABLED, message="", freeze=False),
        launch=launched,
        resumed=lambda engine: engine,
    )
    whole: Any = context()
    whole.board = board
    held.release.set()
    Start(cast(Context, whole), cast(Steps, steps)).run()
    assert gone == [True]
