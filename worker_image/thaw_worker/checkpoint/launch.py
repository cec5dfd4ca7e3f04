"""Start a process tree that can be frozen later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thaw_worker.checkpoint.tree import ProcessTree

PID_FLOOR = 10_000
"""PIDs of a tree start here; the supervisor and its helpers live below, so that the numbers are free in every pod."""


@dataclass(frozen=True)
class LaunchSpec:
    """What to run. `env` is the whole environment of the tree: nothing is inherited."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path = Path("/")
    pid_floor: int = PID_FLOOR


def launch(spec: LaunchSpec) -> ProcessTree:
    """Start `spec.argv` so that it can be frozen: PIDs from the floor, own session, stdin from /dev/null, stdout and
    stderr pipes, io_uring answered with ENOSYS (CRIU cannot dump it), SIGTERM and SIGINT ignored until the program
    sets handlers of its own (a signal meant for the supervisor must not reach the tree).

    No other descriptor is passed on: one that leads out of the tree makes it impossible to freeze.

    Raises:
        CheckpointError: stage `pids` (`HOST_UNSUPPORTED`: the floor cannot be set) or `launch`
            (`ENGINE_START_FAILED`: the program cannot be executed).
    """
    raise NotImplementedError
