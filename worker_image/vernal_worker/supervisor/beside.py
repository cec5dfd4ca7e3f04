"""What a process beside this one finds out, while this one imports what it needs: threads would take turns.

Imports little, so that it can begin early.
"""

import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Beside(NamedTuple):
    """A process that writes what it has found into a pipe, as JSON."""

    pid: int
    answer: int

    def take(self) -> Any:
        """Its answer, which is waited for; None if it ended without one. Once."""
        import json

        with open(self.answer, "rb") as answer:
            data = answer.read()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass  # the reaper was quicker
        return json.loads(data) if data else None

    def forget(self) -> None:
        """Its answer is of no use to anybody. Whoever collects children collects it."""
        os.close(self.answer)


def begin(work: "Callable[[], object]") -> Beside:
    """Have it done. Must be called before any thread is started: what others hold stays locked in a forked process."""
    answer, result = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            found = work()
            import json  # here: what begins first waits for no import

            os.write(result, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(result)
    return Beside(pid, answer)
