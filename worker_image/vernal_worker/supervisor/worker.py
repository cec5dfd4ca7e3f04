"""A worker's life from start to exit, and what the admin port shows of it."""

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from vernal_contract import decoding
from vernal_contract.config import DrainConfig
from vernal_contract.reasons import Reason
from vernal_contract.state import DrainReport, Load, Phase, WorkerState

from vernal_worker.control.client import CallCancelledError, ControlError
from vernal_worker.control.protocol import EngineStatus
from vernal_worker.supervisor import drainplan, log
from vernal_worker.supervisor.board import process_age
from vernal_worker.supervisor.context import CALL_TIMEOUT, Context, StartError, StoppedError
from vernal_worker.supervisor.engine import Engine, Monitor
from vernal_worker.supervisor.exits import ExitCode
from vernal_worker.supervisor.farewell import say_farewell
from vernal_worker.supervisor.listener import bind
from vernal_worker.supervisor.start import Start

BACKLOG = 2048
POLL_SECONDS = 1.0  # while serving
DRAIN_POLL_SECONDS = 0.1
CALL_SECONDS = 2.0  # for a quick answer of the engine while it serves or drains
KNOWN_SECONDS = 3.0  # for so long an engine's last word counts, since the busiest is the one that is late
READY_SILENCE_SECONDS = 15.0  # an engine that does not answer for so long gets no new requests
LIVE_SILENCE_SECONDS = 120.0  # one that does not answer for so long is not coming back
LINGER_SECONDS = 0.3  # after the listener closed: whoever was just connecting gets an answer
ENGINE_DEATH_SECONDS = 3.0  # for the clients of an engine that died to be told
ENGINE_EXIT_SECONDS = 30.0  # for vLLM's own shutdown, a second of one core; then its processes are killed


def _told(status: EngineStatus) -> dict[str, Any]:
    """What the board shows of an engine's status."""
    load = decoding.convert(status.load, Load, from_attributes=True)
    return {"in_flight": status.in_flight, "accepted_total": status.accepted_total, "load": load}


class EngineDiedError(Exception):
    """The engine cannot serve any more."""


class EngineHungError(Exception):
    """The engine does not answer, or does not exit."""


class Worker:
    """Also the admin port's `Source`: those methods are called from other threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._board, self._stop = context.board, context.stop
        self._monitor: Monitor | None = None
        self._listener: (
            socket.socket
        )  # of the serving port, from the start of `run` to the moment when it is given away
        self._started = threading.Event()
        self._in_flight: int | None = None
        """Requests, by the engine's last word; None if it did not answer the last time."""

    # --- life ---

    def run(self) -> ExitCode:
        """Start, serve, drain. Returns when no process and no file of the engine is left."""
        port = self._context.settings.config.serving_port
        try:
            self._listener = bind(port)  # now: whether it is taken is no news after a start of minutes
        except OSError as error:
            return self._end(Phase.FAILED, ExitCode.PORT_UNAVAILABLE, f"the serving port {port} is taken: {error}")
        with self._listener:
            return self._run()

    def _run(self) -> ExitCode:
        start = Start(self._context)
        try:
            engine = start.run()
        except StoppedError:
            return self._end(Phase.STOPPED, ExitCode.OK, "told to stop before it was ready")
        except StartError as failure:
            code = ExitCode.THAW_REQUIRED if failure.required else ExitCode.ENGINE_START_FAILED
            return self._end(Phase.FAILED, code, failure.message, failure.reason)
        try:
            try:
                self._open(engine)
            except OSError as error:
                return self._end(Phase.FAILED, ExitCode.PORT_UNAVAILABLE, f"cannot open the serving port: {error}")
            start.serving()
            self._serve(engine)
            return self._drain(engine)
        except EngineDiedError as death:
            return self._end(Phase.FAILED, ExitCode.ENGINE_DIED, str(death), Reason.ENGINE_DIED)
        except EngineHungError as hang:
            return self._end(Phase.FAILED, ExitCode.ENGINE_HUNG, str(hang), Reason.ENGINE_UNRESPONSIVE)
        finally:
            engine.destroy()
            start.clean()

    def _open(self, engine: Engine) -> None:
        """From here on requests come.

        Raises: EngineDiedError, OSError (the port is taken).
        """
        settings, config = self._context.settings, self._context.settings.config
        try:
            with self._listener:  # the engine gets a duplicate; ours must not stay open
                self._listener.listen(BACKLOG)
                engine.patient_client.listen(self._listener, settings.keep_alive, CALL_TIMEOUT, config.max_body_bytes)
        except ControlError as error:
            raise EngineDiedError(f"the engine does not take the listener: {error}") from error
        self._monitor = Monitor(engine)
        total = process_age()
        self._board.timing("total", total)
        state, port = self._board.snapshot(), config.serving_port
        self._board.phase(Phase.READY, mode=state.start_mode, reason=state.start_reason, seconds=total, port=port)
        self._started.set()

    def _serve(self, engine: Engine) -> None:
        """Until somebody wants the worker to stop."""
        while not self._stop.wished.wait(POLL_SECONDS):
            self._look_after(engine)

    def _look_after(self, engine: Engine, timeout: float = CALL_SECONDS) -> EngineStatus | None:
        """How the engine is; None if it did not say so in time.

        Raises: EngineDiedError.
        """
        assert self._monitor is not None
        if engine.tree.poll() is not None:
            raise EngineDiedError(f"the engine {engine.exit_message()}")
        status = self._monitor.refresh(timeout)
        self._in_flight = status.in_flight if status is not None else None
        if status is not None:
            self._board.update(**_told(status))
            if status.errored is not None:
                self._let_errors_out(status)
                raise EngineDiedError(f"vLLM cannot go on: {status.errored}; {engine.exit_message()}")
        return status

    def _let_errors_out(self, status: EngineStatus | None) -> None:
        """vLLM tells each client that its engine is dead: the server must live until that is written."""
        assert self._monitor is not None
        self._board.phase(Phase.FAILED, in_flight=status.in_flight if status is not None else None)
        deadline = time.monotonic() + ENGINE_DEATH_SECONDS
        while status is not None and status.in_flight > 0 and time.monotonic() < deadline:
            if self._stop.at_once.wait(DRAIN_POLL_SECONDS):
                return
            status = self._monitor.refresh(CALL_SECONDS / 4)

    def _drain(self, engine: Engine) -> ExitCode:
        """Finish what was accepted, then stop the engine; all inside the grace period.

        Raises: EngineDiedError, EngineHungError.
        """
        assert self._monitor is not None
        config = self._context.settings.config.drain
        self._look_after(engine, CALL_SECONDS / 4)  # what is in flight now, and not when it was last asked
        # Before the phase, so that nobody sees a worker that drains and cannot say for how long.
        left = max(0.0, self._plan(config).abort_at - time.monotonic())
        self._board.update(drain=DrainReport(seconds_left=round(left, 2), accepting=True, aborted=0))
        self._board.phase(Phase.DRAINING, in_flight=self._requests)
        closed_at: float | None = None
        aborted, told = 0, -1
        while True:
            now = time.monotonic()
            heard = len(self._stop.signals)  # before the plan, which so knows of all that are told
            plan = self._plan(config)
            left = max(0.0, plan.abort_at - now)
            patience = CALL_SECONDS if left > 2 * CALL_SECONDS else CALL_SECONDS / 4  # a hung engine must not use it up
            if heard != told:
                told = heard
                self._tell(partial(engine.patient_client.leave, left), patience)
                self._say(heard, left)
            if self._stop.at_once.is_set():
                return self._end(Phase.STOPPED, ExitCode.STOPPED_AT_ONCE, "a third signal came")
            if (
                closed_at is None
                and now >= plan.close_at
                and self._tell(engine.patient_client.stop_listening, patience)
            ):
                closed_at = now
                log.event("listener_closed", seconds_left=left)
            status = self._look_after(engine, patience)
            self._board.update(
                drain=DrainReport(seconds_left=round(left, 2), accepting=closed_at is None, aborted=aborted)
            )
            lingered = left == 0 or (closed_at is not None and now >= closed_at + LINGER_SECONDS)
            # Only what the engine says now counts: a request may have come since it last answered. And a signal that
            # has just come is told first.
            if lingered and status is not None and status.in_flight == 0 and told > 0:
                break
            if left == 0 and (status is None or status.in_flight > 0):
                aborted += self._abort(engine, plan.kill_at)
            if self._monitor.silence > LIVE_SILENCE_SECONDS:
                raise EngineHungError(f"the engine has not answered for {self._monitor.silence:.0f} s")
            self._stop.at_once.wait(DRAIN_POLL_SECONDS)
        self._board.update(drain=DrainReport(seconds_left=round(left, 2), accepting=False, aborted=aborted))
        self._shut_down(engine, plan.kill_at)
        return self._end(Phase.STOPPED, ExitCode.OK, f"drained; {aborted} requests were aborted")

    def _say(self, signals: int, left: float) -> None:
        """What the signals so far mean."""
        if signals == 2:
            log.event("hurry", message="a second signal: requests in flight are aborted soon", seconds_left=left)
        elif signals > 2:
            log.event("at_once", message="a third signal: nothing is waited for any more")
        else:
            log.event("draining", seconds_left=left, in_flight=self._requests)

    @property
    def _requests(self) -> int | str:
        """Of requests in flight, what to tell people."""
        return self._in_flight if self._in_flight is not None else "unknown"

    def _plan(self, config: DrainConfig) -> drainplan.DrainPlan:
        return drainplan.plan(config, self._stop.drain_asked_at, self._stop.signals)

    def _abort(self, engine: Engine, kill_at: float) -> int:
        """Raises: EngineHungError."""
        try:
            aborted = engine.patient_client.abort_all(max(0.5, min(5.0, (kill_at - time.monotonic()) / 2)))
        except CallCancelledError:
            return 0  # a third signal
        except ControlError as error:
            raise EngineHungError(f"requests in flight could not be ended in order: {error}") from error
        log.failure(
            "aborted",
            requests=aborted.requests,
            reset=aborted.reset,
            next_step="raise spec.drain.timeoutSeconds and the grace period",
        )
        return aborted.requests

    def _shut_down(self, engine: Engine, kill_at: float) -> None:
        """Let vLLM stop in order, and its KV connector finish its transfers.

        Raises: EngineHungError: it did not; whoever calls `Engine.destroy` kills it.
        """
        began = time.monotonic()
        deadline = kill_at
        if "kv_transfer_config" not in self._context.settings.arguments:
            deadline = min(deadline, began + ENGINE_EXIT_SECONDS)
        log.event("engine_stopping", seconds_left=deadline - began)
        asked = deadline > began and self._tell(engine.patient_client.shutdown, deadline - began)
        while asked and engine.tree.wait(DRAIN_POLL_SECONDS) is None and time.monotonic() < deadline:
            if self._stop.at_once.is_set():
                break
        seconds = time.monotonic() - began
        log.event("engine_stopped", exit_code=engine.tree.poll(), seconds=seconds)
        if engine.tree.poll() is None and not self._stop.at_once.is_set():
            raise EngineHungError(f"every request was answered, but the engine did not exit within {seconds:.1f} s")

    def _tell(self, call: Callable[[float], None], timeout: float) -> bool:
        try:
            call(timeout)
        except ControlError as error:
            log.failure("engine_call", message=str(error))
            return False
        return True

    def _end(self, phase: Phase, code: ExitCode, message: str, reason: Reason | None = None) -> ExitCode:
        if code is not ExitCode.OK:
            self._board.update(last_error=message)
        self._board.phase(phase)
        say_farewell(code, message, reason)
        return code

    # --- what the admin port shows ---

    def live(self) -> str | None:
        monitor = self._monitor
        if monitor is not None and monitor.silence > LIVE_SILENCE_SECONDS:
            return f"the engine has not answered for {monitor.silence:.0f} s"
        return None

    def ready(self) -> str | None:
        state = self._board.snapshot()
        if state.drain is not None and state.phase in (Phase.READY, Phase.DRAINING):
            left, requests = state.drain.seconds_left, self._requests
            return f"the worker is draining: {left:.1f} s left, requests in flight: {requests}"
        if state.phase is not Phase.READY:
            return f"the worker is {state.phase}"
        if self._stop.wished.is_set():
            return "the worker was told to stop"
        if self._monitor is not None and self._monitor.silence > READY_SILENCE_SECONDS:
            return f"the engine has not answered for {self._monitor.silence:.0f} s"
        return None

    def started(self, wait: float = 0.0) -> str | None:
        return None if self._started.wait(wait) else f"the worker is {self._board.snapshot().phase}"

    def state(self) -> WorkerState:
        status = self._monitor.refresh(timeout=0.5) if self._monitor is not None else None
        if status is not None:
            self._board.update(**_told(status))
        state = self._board.snapshot()
        if self._monitor is not None and self._monitor.silence > KNOWN_SECONDS:
            state.load = None  # what was so before is no news
        state.ready = self.ready() is None
        return state

    def metrics(self) -> str:
        from vernal_worker.supervisor import metrics

        return metrics.text(self.state()) + (self._monitor.metrics() if self._monitor is not None else "")

    def drain(self) -> str | None:
        if not self._started.is_set():
            return f"the worker is {self._board.snapshot().phase}: it serves nothing yet"
        self._stop.ask_drain()
        return None
