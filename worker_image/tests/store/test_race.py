"""The collector beside fifty readers, each held at a point of its own: what a reader gets is right, or nothing."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from vernal_contract.identity import digest
from vernal_contract.reasons import Reason
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store

READERS = 50
RIGHT, NONE, LOST, WRONG, MISNAMED = 10, 11, 12, 13, 14

CALLS = ("open", "os.mkdir", "os.scandir", "os.listdir", "os.readlink", "os.remove", "os.rename", "os.chmod")


class Held:
    """This process stops before its `step`-th call on the store until the other side lets it go on."""

    def __init__(self, root: Path, step: int, stopped: int, go_on: int) -> None:
        self._root, self._step, self._stopped, self._go_on = str(root), step, stopped, go_on
        self._count, self.reached = 0, False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CALLS and arguments and str(arguments[0]).startswith(self._root):
            self._count += 1
            if self._count == self._step:
                self.stop()

    def stop(self) -> None:
        self.reached = True
        os.write(self._stopped, b"x")
        os.read(self._go_on, 1)


def thaw(root: Path, identity: Any, host: Any, expected: dict[str, bytes], held: Held) -> int:
    """As a worker does: look, hold, check every byte, read. What is held must not be lost."""
    lookup = None
    try:
        lookup = Store(root).open(identity, host, Owner(pod="reader"))
        if lookup.artifact is None:
            return NONE if lookup.reason is Reason.NO_ARTIFACT else WRONG
        assert lookup.reading is not None
        with lookup.reading:
            lookup.artifact.verify(threads=1)
            found = {
                entry.path: (lookup.artifact.path / entry.path).read_bytes() for entry in lookup.artifact.manifest.files
            }
        return RIGHT if found == expected else WRONG
    except (StoreError, FileNotFoundError):
        return MISNAMED if lookup is None else LOST  # what is collected is neither broken nor out of reach
    finally:
        if not held.reached:
            held.stop()


def held_reader(root: Path, identity: Any, host: Any, expected: dict[str, bytes], step: int) -> tuple[int, int]:
    """The process of a reader that stands still, and where to write for it to go on."""
    stopped, goes_on = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = thaw(root, identity, host, expected, Held(root, step, stopped[1], goes_on[0]))
        finally:
            os._exit(code)
    os.close(stopped[1])
    os.close(goes_on[0])
    with open(stopped[0], "rb") as told:
        assert told.read(1) == b"x"
    return pid, goes_on[1]


def go_on(pid: int, end: int) -> int:
    os.write(end, b"x")
    os.close(end)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("step", range(1, 9))
def test_what_is_collected_while_it_is_looked_for_is_no_artifact(
    memory: Path, identity: Any, host: Any, filled: Any, step: int
) -> None:
    store = Store(memory)
    filled(store.stage(identity, host)).publish(created_by="a", threads=1)
    reader = held_reader(memory, identity, host, {}, step)
    assert store.remove(digest(identity), digest(host)).busy == ()
    assert go_on(*reader) == NONE


@pytest.mark.parametrize("seed", range(4))
def test_right_or_none(memory: Path, identity: Any, host: Any, filled: Any, seed: int, say: Any) -> None:
    pick = random.Random(seed)
    store = Store(memory)
    artifact = filled(store.stage(identity, host)).publish(created_by="a", threads=1).artifact
    expected = {entry.path: (artifact.path / entry.path).read_bytes() for entry in artifact.manifest.files}
    children = []
    for _ in range(READERS):
        children.append(held_reader(memory, identity, host, expected, pick.randrange(1, 40)))
    # All stand still, somewhere. Some go on before the collector comes, some between its runs, the rest after it.
    codes, busy = [], []
    pick.shuffle(children)
    while children:
        done = store.remove(digest(identity), digest(host))
        store.gc(grace=-10)
        busy.append(len(done.busy))
        if done.busy:
            artifact.verify(threads=1)
        for _ in range(min(pick.randrange(1, 12), len(children))):
            codes.append(go_on(*children.pop()))
    say(f"right {codes.count(RIGHT)}, none {codes.count(NONE)}; readers the collector saw, run by run: {busy}")
    assert set(codes) == {RIGHT, NONE}, codes
    store.remove(digest(identity), digest(host))
    assert not artifact.path.exists()
