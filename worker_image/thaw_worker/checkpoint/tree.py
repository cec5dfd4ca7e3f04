"""A process tree that belongs to the caller: launched or thawed, it is handled alike."""

from dataclasses import dataclass, field


@dataclass
class ProcessTree:
    """The root's PID, the read ends of its stdout and stderr pipes (owned by this object) and a pidfd of the root.

    The root is a child of the calling process. A supervisor that reaps with `waitpid(-1)` tells the tree what it got
    for the root with `note_exit`; otherwise `poll` and `wait` reap it.
    """

    pid: int
    stdout: int
    stderr: int
    pidfd: int
    returncode: int | None = field(default=None, init=False)

    def members(self) -> list[int]:
        """PIDs of the root, its descendants, and whatever else is in the root's session, zombies excepted."""
        raise NotImplementedError

    def poll(self) -> int | None:
        """The root's exit code as in `subprocess` (negative: killed by that signal), or None while it runs.

        `pidfd` becomes readable when the root exits, so that an event loop need not ask.
        """
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> int | None:
        """Like `poll`, after waiting up to `timeout` seconds (None: for ever)."""
        raise NotImplementedError

    def note_exit(self, returncode: int) -> None:
        """The caller reaped the root itself."""
        raise NotImplementedError

    def kill(self, timeout: float = 10.0) -> None:
        """SIGKILL every member, reap, and return when every one of their PIDs is gone from the PID namespace.

        Safe to call again and on a dead tree. The pipes stay open: read what is left, then `close`.

        Raises:
            CheckpointError: (`Reason.INTERNAL`) a PID is still there after `timeout`; the message names it and its state.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the pipes and the pidfd. Does not touch the processes."""
        raise NotImplementedError
