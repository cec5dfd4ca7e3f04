"""Room on the GPUs: what is missing is said in bytes, and waited for only if it can come."""

from collections.abc import Iterator
from typing import Any

import pytest
from vernal_contract.config import CheckpointConfig, ModelConfig, WorkerConfig, encode
from vernal_contract.names import ENV_CONFIG
from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.checkpoint.cuda.messages import Room
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.supervisor import gpu_memory
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.context import Context, StoppedError, read_settings
from vernal_worker.supervisor.gpu_memory import RoomWait
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.stop import Stop

GIB = 1 << 30


def context(seconds: float) -> Context:
    config = WorkerConfig(
        pool="p",
        namespace="n",
        revision="r",
        model=ModelConfig(name="m"),
        checkpoint=CheckpointConfig(gpu_memory_wait_seconds=seconds),
    )
    settings = read_settings({"PATH": "/bin", ENV_CONFIG: encode(config)})
    state = WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING)
    return Context(settings, Board(state), Stop(), Reaper())


def room(*free: int, total: int = 80 * GIB) -> Room:
    return Room(free=free, total=(total,) * len(free))


def test_what_is_missing_is_named() -> None:
    assert gpu_memory.insufficient((10, 10), room(10, 11)) is None
    assert gpu_memory.insufficient((10,), Room()) is None, "nobody can tell"
    assert gpu_memory.insufficient((), room(1)) is None, "an artifact that does not say"
    problem = gpu_memory.insufficient((0, 70 * GIB), room(GIB, 30 * GIB)) or ""
    assert "GPU 1" in problem and str(70 * GIB) in problem and str(30 * GIB) in problem and "GPU 0" not in problem


@pytest.mark.parametrize(
    ("arguments", "count", "wanted"),
    [
        ({"gpu_memory_utilization": 0.5}, 1, [40 * GIB]),
        ({"gpu_memory_utilization": 0.5}, 2, [40 * GIB, 40 * GIB]),
        ({}, 1, [72 * GIB]),
    ],
)
def test_what_a_cold_start_wants(arguments: dict[str, Any], count: int, wanted: list[int]) -> None:
    assert gpu_memory.for_cold_start(arguments, count, room(0, 0, 0)) == wanted


def test_the_wait_is_seen_and_ends_when_there_is_room() -> None:
    here = context(600)
    seen: list[str] = []

    def rooms() -> Iterator[Room]:
        yield room(GIB)
        seen.append(here.board.snapshot().waiting_for)
        yield room(2 * GIB)
        seen.append(here.board.snapshot().waiting_for)
        yield room(10 * GIB)

    found = rooms()
    RoomWait(here).until(lambda: next(found), lambda _: (10 * GIB,))
    assert len(seen) == 2 and all("another process holds" in text and str(10 * GIB) in text for text in seen)
    assert here.board.snapshot().waiting_for == ""


@pytest.mark.parametrize(
    ("seconds", "wanted"), [(0.0, 10 * GIB), (600.0, 81 * GIB)], ids=["no time", "more than the GPU has"]
)
def test_what_cannot_come_is_not_waited_for(seconds: float, wanted: int) -> None:
    here = context(seconds)
    with pytest.raises(CheckpointError) as error:
        RoomWait(here).until(lambda: room(GIB), lambda _: (wanted,))
    assert error.value.reason is Reason.GPU_MEMORY_INSUFFICIENT and str(wanted) in error.value.message
    assert here.board.snapshot().waiting_for == ""


def test_a_start_waits_once() -> None:
    """What a thaw has waited, the cold start after it need not wait again."""
    here = context(1.0)
    wait = RoomWait(here)
    with pytest.raises(CheckpointError, match="also after 1 s"):
        wait.until(lambda: room(GIB), lambda _: (10 * GIB,))
    with pytest.raises(CheckpointError) as error:
        wait.until(lambda: room(GIB), lambda _: (10 * GIB,))
    assert "also after" not in error.value.message


def test_a_stop_ends_it() -> None:
    here = context(600)
    here.stop.signalled.set()
    with pytest.raises(StoppedError):
        RoomWait(here).until(lambda: room(GIB), lambda _: (10 * GIB,))
