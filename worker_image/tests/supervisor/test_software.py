"""What processes beside a start find out, and what is left of them where nobody asks."""

import os
from collections.abc import Iterator

import pytest
from vernal_worker.supervisor import beside, software


@pytest.fixture
def begun() -> Iterator[list[beside.Beside]]:
    """As `software.begin` leaves it, with nobody who asks NVML."""
    processes = [beside.begin(lambda: ({"vllm": "1"}, "image")), beside.begin(list)]
    software._looks.append(("criu", processes[0]))
    software._asks.append(processes[1])
    yield processes
    for process in processes:
        try:
            os.waitpid(process.pid, 0)
        except ChildProcessError:
            pass
    software._answers.clear()


def test_it_is_found_once(begun: list[beside.Beside]) -> None:
    assert software.find("criu") == ({"vllm": "1"}, "image")
    assert software.devices() == []
    software.forget()
    for process in begun:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(process.answer)


def test_nothing_stays_open_where_nobody_asks(begun: list[beside.Beside]) -> None:
    software.forget()
    for process in begun:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(process.answer)
    assert not software._looks and not software._asks
    assert software.devices() is None
