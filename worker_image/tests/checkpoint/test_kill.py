"""Ending a tree that is coming up: its processes fork while they are killed."""

import subprocess
from collections.abc import Iterable

import pytest
from vernal_worker.checkpoint import thaw, tree

SLEEPS = ["sleep", "infinity"]


def test_what_was_forked_just_before_the_kill_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    first = subprocess.Popen(SLEEPS)
    ids, forked = {first.pid}, list[subprocess.Popen[bytes]]()

    def late(pids: Iterable[int]) -> None:
        if not forked:
            forked.append(subprocess.Popen(SLEEPS))
            ids.add(forked[0].pid)
        tree.kill(pids)

    monkeypatch.setattr(thaw, "kill", late)
    try:
        assert thaw._kill(ids) == set()
        assert tree.still_there(process.pid for process in (first, *forked)) == set()
    finally:
        tree.kill(process.pid for process in (first, *forked))
