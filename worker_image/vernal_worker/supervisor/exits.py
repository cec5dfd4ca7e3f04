"""Exit codes of a worker: what the kubelet and `docker inspect` show when a container ended.

`docs/shutdown.md` lists them for users.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Why process 1 ended. The message is in the log's last line and in the pod's termination message."""

    OK = 0  # told to stop, drained, stopped
    INTERNAL = 1  # a bug in Vernal
    USAGE = 2  # wrong command line (argparse)
    CONFIG_INVALID = 3  # VERNAL_CONFIG is missing or wrong; a restart does not help
    PORT_UNAVAILABLE = 4  # the serving or the admin port cannot be opened
    ENGINE_START_FAILED = 10  # the cold start failed or took too long
    THAW_REQUIRED = 11  # policy Required, and the thaw failed
    ENGINE_DIED = 12  # the engine died or could not go on while it served
    STOPPED_AT_ONCE = 13  # a third signal: requests in flight were not waited for
    ENGINE_HUNG = 14  # the engine stopped answering or would not exit while it was to stop, and was killed
    OUT_OF_TIME = 15  # the grace period was nearly over and the worker was still not done: it ended itself
