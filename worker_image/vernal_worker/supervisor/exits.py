"""Exit codes: what the kubelet and `docker inspect` show when a worker ended, and what the other commands return.

`vernal-worker --help` and `docs/shutdown.md` list them for users, in these words.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Why process 1, or another command, ended. A worker's last line of the log, and its pod's termination message, say
    it in words."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    CONFIG_INVALID = 3
    PORT_UNAVAILABLE = 4
    ENGINE_START_FAILED = 10
    THAW_REQUIRED = 11
    ENGINE_DIED = 12
    STOPPED_AT_ONCE = 13
    ENGINE_HUNG = 14
    OUT_OF_TIME = 15


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "told to stop, and stopped: everything in flight was answered, or aborted in order at the end of the "
    "budget",
    ExitCode.INTERNAL: "a bug in Vernal; the log has a traceback",
    ExitCode.USAGE: "wrong command line",
    ExitCode.CONFIG_INVALID: "`VERNAL_CONFIG` is missing or wrong; a restart does not help",
    ExitCode.PORT_UNAVAILABLE: "the serving or the admin port cannot be opened",
    ExitCode.ENGINE_START_FAILED: "the cold start failed or took too long",
    ExitCode.THAW_REQUIRED: "policy `Required`, and the thaw failed",
    ExitCode.ENGINE_DIED: "the engine died, or could not go on, while it served or drained",
    ExitCode.STOPPED_AT_ONCE: "a third signal: requests in flight were not waited for",
    ExitCode.ENGINE_HUNG: "the engine stopped answering or would not exit while it was to stop, and was killed",
    ExitCode.OUT_OF_TIME: "the grace period was nearly over and the worker still not done: it ended itself",
}
"""Of `vernal-worker run`."""

COMMAND_MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done, and all is well",
    ExitCode.INTERNAL: "done, and something is not well: an artifact is damaged, missing, not published or does not "
    "fit, or the host lacks something; or the store or the bucket cannot be used",
    ExitCode.USAGE: "wrong command line, or there is no store at that path",
    ExitCode.CONFIG_INVALID: "`VERNAL_CONFIG` is wrong, or missing where it is needed",
}
"""Of the other commands."""
