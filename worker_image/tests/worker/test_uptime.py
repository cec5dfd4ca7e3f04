"""Clones on hosts that have been up for longer or shorter than the host of the freeze."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker_pod import Pod

HOUR, DAY = 3600, 24 * 3600
HOT: dict[str, Any] = {"temperature": 1.5, "max_tokens": 48}
Thawed = Callable[..., Pod]


def seconds_up(pod: Pod) -> float:
    """What a process of the pod reads from the monotonic clock, relative to this machine's."""
    offsets = Path(f"/proc/{pod.init}/timens_offsets").read_text().split()
    return float(offsets[1])


def test_clones_on_hosts_with_other_uptimes(creator: Pod, thawed: Thawed) -> None:
    """Same greedy tokens, other unseeded samples, same seeded samples, a hundred days later and an hour earlier."""
    shorter = min(HOUR, int(time.monotonic() / 2))  # a machine that was just started has no hour to take away
    late, early = thawed(uptime=100 * DAY), thawed(uptime=-shorter)
    print(f"uptime of the creator's host: {time.monotonic():.0f} s; clones: +{100 * DAY} s and -{shorter} s")
    assert (seconds_up(late), seconds_up(early)) == (100 * DAY, -shorter)
    prompts = ("hello", "A worker that has served before")
    for pod in (late, early):
        assert [pod.complete(prompt) for prompt in prompts] == [creator.complete(prompt) for prompt in prompts]
        text, rest = pod.stream(prompt="hello", max_tokens=24).rest()
        assert (text, rest) == (creator.complete(), ["[DONE]"])
    hot = {pod.complete(**HOT) for pod in (creator, late, early)}
    assert len(hot) == 3
    assert len({pod.complete(**HOT, seed=7) for pod in (creator, late, early)}) == 1
    for pod in (late, early):
        pod.signal()
        assert pod.wait() == 0, pod.log()
        said = re.search(r"event=draining seconds_left=(\S+)", pod.log())
        assert said is not None and 0 < float(said[1]) <= 90.5, "durations, whatever the clock says"
