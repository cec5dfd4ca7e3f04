"""Exit codes, and the errors that end a verb."""

from enum import IntEnum


class Exit(IntEnum):
    """What `kubectl vernal` ends with; `--help` and the docs list them in the words of `MEANING`."""

    OK = 0
    NO = 1
    USAGE = 2
    CLUSTER = 3
    NOT_FOUND = 4


MEANING: dict[Exit, str] = {
    Exit.OK: "done, and the answer is yes: ready, would thaw, nothing wrong",
    Exit.NO: "done, and the answer is no: a pool is not ready, a pod would start cold, a check failed",
    Exit.USAGE: "wrong command line",
    Exit.CLUSTER: "the API server cannot be reached, or refuses",
    Exit.NOT_FOUND: "there is no such pool, pod or revision",
}


class PluginError(Exception):
    """Ends the verb: the message says what is wrong and what to do."""

    code = Exit.CLUSTER


class NotFoundError(PluginError):
    code = Exit.NOT_FOUND


class UsageError(PluginError):
    code = Exit.USAGE


class ApiError(PluginError):
    """The API server's answer is no, or there is none.

    Attributes:
        status: HTTP status; 0 if no answer came.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
