"""Many workers at once on an empty store: one makes the checkpoint, all serve; and a dead creator blocks nobody."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from thaw_contract.state import FreezeOutcome
from worker_pod import Pod

StartPod = Callable[..., Pod]


def test_three_workers_and_a_dead_creator_on_an_empty_store(creator: Pod, start_pod: StartPod, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    dead = start_pod(store)
    dead.wait_log("event=engine_start")
    (lease,) = [path for path in (store / "leases").iterdir() if path.suffix != ".beat"]
    os.kill(dead.init, signal.SIGKILL)
    dead.wait()
    assert lease.exists(), "nobody gave it back"

    began = time.monotonic()
    pods = [start_pod(store) for _ in range(3)]
    states = [pod.wait_ready() for pod in pods]
    print(f"three workers ready after {time.monotonic() - began:.0f} s: {[s.freeze for s in states]}")
    outcomes = sorted(state.freeze.outcome for state in states if state.freeze)
    assert outcomes.count(FreezeOutcome.PUBLISHED) == 1, [pod.log() for pod in pods]
    assert set(outcomes) <= {FreezeOutcome.PUBLISHED, FreezeOutcome.SKIPPED, FreezeOutcome.PUBLISHED_BY_OTHER}
    assert {pod.complete() for pod in pods} == {creator.complete()}
    (directory,) = store.glob("artifacts/*/*")
    assert len([path for path in directory.iterdir() if path.is_dir() and path.name[0].isdigit()]) == 1
    assert list((store / "staging").iterdir()) == []
    assert list((store / "leases").iterdir()) == []
    later = start_pod(store)
    assert later.wait_ready().start_mode == "Restored"
    assert later.complete() == creator.complete()
