"""A running engine: its processes, its output, its control socket."""

import threading
import time

from vernal_contract.reasons import Reason

from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.tree import ProcessTree
from vernal_worker.control.client import ControlError, EngineClient, RefusedError, TimedOutError
from vernal_worker.control.protocol import EngineStatus
from vernal_worker.supervisor import log
from vernal_worker.supervisor.output import Output

_POLL = 0.05


class EngineError(Exception):
    """The engine is not there or not usable."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Engine:
    """Owns a process tree until `destroy`."""

    def __init__(
        self, tree: ProcessTree, socket: str, cancel: threading.Event, at_once: threading.Event | None = None
    ) -> None:
        self.tree = tree
        self.client = EngineClient(socket, cancel)
        """Its calls end early when the worker is told to stop."""
        self.patient_client = EngineClient(socket, at_once)
        """Its calls do not, unless it is to stop at once: for the drain."""
        self._output = Output(tree.stdout, tree.stderr)

    def start_message(self) -> str:
        """How it ended, and why it could not start."""
        from vernal_worker.supervisor import rootcause  # here: a thaw need not wait for its dozen patterns

        why = rootcause.cause(self._output.tail())
        return f"{_exit(self.tree.poll())}: {why}" if why is not None else self.exit_message()

    def exit_message(self) -> str:
        """How it ended and what it said last."""
        return f"{_exit(self.tree.poll())}; its last lines: " + " | ".join(self._output.tail()[-5:])

    def wait_loaded(self, timeout: float, cancel: threading.Event) -> None:
        """Wait until the control socket answers, which it does once the model is loaded.

        Raises:
            EngineError: `ENGINE_START_FAILED` or `ENGINE_START_TIMEOUT`.
            InterruptedError: `cancel` was set.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.client.status()
                return
            except (TimedOutError, RefusedError) as error:
                log.event("engine_slow", message=str(error))
            except ControlError:
                pass  # not there yet
            if cancel.is_set():
                raise InterruptedError
            if self.tree.poll() is not None:
                self._output.join(1.0)
                raise EngineError(Reason.ENGINE_START_FAILED, f"the engine {self.start_message()}")
            if time.monotonic() > deadline:
                raise EngineError(Reason.ENGINE_START_TIMEOUT, f"the engine was not up after {timeout:g} s")
            cancel.wait(_POLL)

    def destroy(self) -> None:
        """End every process of the tree at once. Never raises: what cannot be killed is logged."""
        try:
            self.tree.kill()
        except CheckpointError as error:
            log.failure("kill", reason=error.reason, message=error.message)
        self._output.join(2.0)
        self.tree.close()


class Monitor:
    """Knows how a serving engine is, for the main loop and for the admin port's threads."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.patient_client
        self._answered = time.monotonic()

    def refresh(self, timeout: float = 2.0) -> EngineStatus | None:
        """The engine's status; None if it does not answer in time."""
        try:
            status = self._client.status(timeout)
        except ControlError:
            return None
        self._answered = time.monotonic()
        return status

    @property
    def silence(self) -> float:
        """Seconds since the engine last answered."""
        return time.monotonic() - self._answered

    def metrics(self) -> str:
        """vLLM's metrics; empty if it does not answer."""
        try:
            return self._client.metrics()
        except ControlError:
            return ""


def _exit(code: int | None) -> str:
    if code is None:
        return "runs"
    return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
