"""Start a process tree that can be frozen later."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import _exec, pids
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.pids import PID_FLOOR
from vernal_worker.checkpoint.tree import ProcessTree

_EXEC = [sys.executable, "-I", "-S", str(Path(_exec.__file__))]


@dataclass(frozen=True)
class LaunchSpec:
    """What to run. `env` is the whole environment of the tree: nothing is inherited."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path = Path("/")
    pid_floor: int = PID_FLOOR


def bare(argv: Sequence[str], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command and environment for a child that is no tree and is never frozen: it runs `argv` with `env`, which may be
    a pool's, and without this process's capabilities, but for DAC_OVERRIDE.
    """
    return [*_EXEC, _exec.BARE, *argv], _later(env)


def _later(env: Mapping[str, str]) -> dict[str, str]:
    """For `_exec.py`, which still has the capabilities: `env` by names that nothing heeds, and what the loader of this
    very Python was given.
    """
    own = {name: value for name, value in os.environ.items() if name.startswith("LD_")}
    return own | {f"{_exec.LATER}{name}": value for name, value in env.items()}


def launch(spec: LaunchSpec) -> ProcessTree:
    """Start `spec.argv` so that it can be frozen: PIDs from the floor, own session, stdin from /dev/null,
    stdout and stderr pipes, io_uring answered with ENOSYS (CRIU cannot dump it), no
    capability but DAC_OVERRIDE, SIGTERM and SIGINT ignored
    until the program sets handlers of its own (a signal meant for the supervisor must not reach the tree).

    No other descriptor is passed on: one that leads out of the tree makes it impossible to freeze.

    Raises:
        CheckpointError: stage `pids` (`HOST_UNSUPPORTED`: the floor cannot be set) or `launch`
            (`ENGINE_START_FAILED`: the program cannot be executed).
    """
    out, err, status = os.pipe(), os.pipe(), os.pipe()
    writers = (out[1], err[1], status[1])
    try:
        if pids.last() < spec.pid_floor - 1:
            pids.set_last(spec.pid_floor - 1)
        pid = os.posix_spawn(
            sys.executable,
            [*_EXEC, str(spec.cwd), *spec.argv],
            _later(spec.env),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(writers, 1)),
            ],
            setsid=True,
        )
    except BaseException:
        for fd in (out[0], err[0]):
            os.close(fd)
        os.close(status[0])
        raise
    finally:
        for fd in writers:
            os.close(fd)
    tree = ProcessTree(pid, out[0], err[0], os.pidfd_open(pid))
    with open(status[0], "rb") as f:
        problem = f.read().decode(errors="replace")
    if problem:
        tree.wait()
        tree.close()
        raise CheckpointError(Reason.ENGINE_START_FAILED, "launch", f"cannot run {spec.argv[0]}: {problem}")
    return tree
