"""vLLM's AsyncLLM with an engine that can be frozen and thawed."""

import asyncio
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Self

import msgspec
from vernal_contract.config import WorkerConfig
from vernal_contract.reasons import Reason
from vernal_contract.state import WorkerState
from vllm.engine.protocol import EngineClient
from vllm.v1.engine.exceptions import EngineDeadError

from vernal_worker.client import configuration, settings
from vernal_worker.client.asking import ask
from vernal_worker.client.calls import Calls
from vernal_worker.client.connection import Connection
from vernal_worker.client.gate import MEANWHILE, Gate
from vernal_worker.client.host import EngineFailedError, EngineHost
from vernal_worker.client.in_process import InProcessAsyncLLM
from vernal_worker.client.known import Known
from vernal_worker.client.messages import How
from vernal_worker.client.metrics import EngineMetrics
from vernal_worker.client.requests import Requests
from vernal_worker.client.ways import PathLike, Ways
from vernal_worker.engine import wire

_ANSWER_SECONDS = 60.0
"""For the engine to say what it is."""
_SCRAPE_SECONDS = 2.0
"""For its metrics: whoever looks at them has others to look at."""


class _Link:
    """Holds the connection, if there is one; known to the finalizer, which must not know the object."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def close(self, reason: str) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close(reason)


def _end(host: EngineHost, link: _Link, program: int) -> None:
    """`program`: whose the engine is. A fork of it has this to call, too, when it ends."""
    if os.getpid() == program:
        link.close("the engine was shut down")
        host.end()


def _scraper(llm: "CheckpointableAsyncLLM") -> Callable[[], str | None]:
    """Asks for metrics without keeping the object."""
    known = weakref.ref(llm)

    def scrape() -> str | None:
        llm = known()
        return llm._metrics_text() if llm is not None else ""

    return scrape


class CheckpointableAsyncLLM(Ways, Requests, Calls, Known, EngineClient):  # type: ignore[misc]  # vllm has no types for us
    """The methods of vLLM's AsyncLLM, answered by an engine in processes of its own.

    Make one with `create` (or `thaw`, or AsyncLLM's `from_engine_args`), and end it with `close`, `shutdown` or
    `async with`. If none of that happens, the engine ends when this object is collected or the program ends, however
    it ends. Needs root, as CRIU does. Signals are left alone: they are the program's.

    Use it from one event loop at a time. Where checkpointing is disabled, what makes one returns vLLM's AsyncLLM with
    the same surface instead (`InProcessAsyncLLM`), which needs none of this; it is an instance of this class, too.
    """

    def __init__(self, worker: WorkerConfig, *, criu: str, output: int | None) -> None:
        """Makes the processes that will hold the engine. Use `create`.

        Raises:
            EngineFailedError: this host cannot; the message says why and what to do.
        """
        self._worker = worker
        self._gate = Gate()
        self.log_requests = bool(worker.engine_args.get("enable_log_requests"))
        output = output if output is not None else _stderr()
        self._host = EngineHost(worker, settings.environment(worker, configuration.environment()), criu, output)
        self._link = _Link()
        self._finalizer = weakref.finalize(self, _end, self._host, self._link, os.getpid())
        self.report: WorkerState
        """How the engine came up, and what became of the last freeze that made a checkpoint or found one: as a
        worker's `/state`."""
        self._metrics = EngineMetrics(_scraper(self))

    def _start(self, how: How) -> Self:
        """Blocks until there is an engine. Ends early when `_host` is closed.

        Raises:
            EngineFailedError: there is none; the message says why and what to do.
            ArgumentError; what vLLM raises: an engine argument is not possible.
        """

        def configure() -> None:
            self.vllm_config = configuration.make(self._worker)

        try:
            self.report = self._host.start(how, meanwhile=configure)
            self._learn(self._asked())
        except BaseException:
            self._finalizer()
            raise
        if self.log_stats:
            self._metrics.register()
        return self

    async def _started(self, how: How) -> Self:
        """Whoever stops waiting, as Ctrl-C in `asyncio.run` does, ends the start, and need not wait for it."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._start, how))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._host.give_up()
            starting.add_done_callback(_look_at)
            raise

    # --- freezing and ending ---

    async def freeze(self, checkpoint_dir: PathLike, *, drain_timeout: float | None = 300.0) -> WorkerState:
        """Write a checkpoint of the engine into `checkpoint_dir` and go on. Waits until no request is running; requests
        that come meanwhile wait until it is done, but for `abort`, `check_health` and others that end or only ask.
        If a checkpoint of these arguments and this host is there already, it stays. Returns `report`.

        Args:
            drain_timeout: seconds to wait for running requests, which go on when it is over; None: without end.

        Raises:
            EngineFailedError: it was not frozen, and serves all the same (if it does not, `errored` says so). An
                engine that is asleep or paused is not.
            TimeoutError: requests were still running; it names them. Nothing has changed.
        """
        await self._gate.shut(drain_timeout, self._what_runs)
        try:
            await self._check_awake()
            self._disconnect("the engine is being frozen")
            freezing = asyncio.ensure_future(asyncio.to_thread(self._freeze, checkpoint_dir))
            for after in (lambda _: self._gate.open(), _look_at):  # also if nobody waits for it any more
                freezing.add_done_callback(after)
        except BaseException:
            self._gate.open()
            raise
        return await asyncio.shield(freezing)

    async def _check_awake(self) -> None:
        """An engine that is asleep or paused answers no questions of the freeze's either.

        Raises: EngineFailedError: it is.
        """
        try:
            connection = await self._connect()
            for method in ("is_sleeping", "is_paused"):  # the first is true of both in some versions of vLLM
                if await connection.call(method, (), {}):
                    first = "wake_up() or resume_generation() comes first"
                    raise EngineFailedError(Reason.FREEZE_GIVEN_UP, f"the engine is asleep or paused: {first}")
        except EngineDeadError:
            pass  # the freeze finds out more
        except TimeoutError as error:
            raise EngineFailedError(Reason.ENGINE_UNRESPONSIVE, str(error)) from error

    def _freeze(self, checkpoint_dir: PathLike) -> WorkerState:
        self.report = self._host.freeze(checkpoint_dir)
        self._learn(self._asked())  # it may be another one now
        return self.report

    def _asked(self) -> wire.Welcome:
        """What the engine says of itself. Raises: EngineFailedError: it says nothing, or what nobody understands."""
        try:
            facts: wire.Welcome = ask(self._host.api, wire.Ask(), _ANSWER_SECONDS, lambda: self._host.alive)
        except (TimeoutError, msgspec.DecodeError) as error:
            reason = Reason.ENGINE_UNRESPONSIVE if self._host.alive else Reason.ENGINE_DIED
            raise EngineFailedError(reason, str(error)) from error
        return facts

    def _what_runs(self) -> str:
        connection = self._link.connection
        return connection.what_runs() if connection is not None else ""

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """As `shutdown`, without blocking the event loop."""
        self._disconnect("the engine was shut down")
        await asyncio.to_thread(self.shutdown, timeout)

    def shutdown(self, timeout: float | None = None) -> None:
        """End the engine: when this returns, no process, descriptor, file or shared memory of it is left. Requests
        that are running end with EngineDeadError. vLLM stops in order, and its KV connector finishes its transfers, if
        that takes no longer than `timeout` seconds (15 by default; 0: at once). Again is fine."""
        self._disconnect("the engine was shut down")
        self._metrics.unregister()
        if (renderer := vars(self).get("renderer")) is not None:
            renderer.shutdown()
        if self._finalizer.detach() is not None:
            self._host.close(timeout)

    async def reset_mm_cache(self) -> None:
        """Also of `renderer`, if it is there."""
        await super().reset_mm_cache()
        if (renderer := vars(self).get("renderer")) is not None:
            await renderer.clear_mm_cache_async()

    async def handle_fault(self, fault_tolerance_request: Any) -> Any:
        """Raises: ValueError: the engine has no fault tolerance; vLLM's would never answer."""
        if not getattr(self.vllm_config.parallel_config, "enable_fault_tolerance", False):
            raise ValueError("handle_fault needs an engine with enable_fault_tolerance=True")
        return await super().handle_fault(fault_tolerance_request)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- calls and connection ---

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of AsyncLLM in the engine (`vernal_worker.engine.wire.METHODS`).

        Those of `MEANWHILE` are not held back by a freeze that waits for requests to end: they may be what it waits
        for. Once it has begun, `check_health` says whether the engine's processes are there, and no other is asked.

        Raises: EngineDeadError; what the method raises.
        """
        if method == "check_health" and self._gate.apart and not self.errored:
            return None
        async with self._gate.use(meanwhile=method in MEANWHILE):
            connection = await self._connect()
            return await connection.call(method, args, kwargs)

    async def _connect(self) -> Connection:
        """The connection of this event loop."""
        if self._ended:
            self._disconnect("the engine is gone")
            raise EngineDeadError("the engine is gone")
        connection = self._link.connection
        if connection is None or connection.loop is not asyncio.get_running_loop():
            self._disconnect("another event loop uses the engine now")
            self._link.connection = connection = Connection(self._host.api, self._host.pidfd)
        facts = await connection.opened()
        if facts != self._facts:
            self._learn(facts)
        return connection

    def _disconnect(self, reason: str) -> None:
        self._link.close(reason)

    @property
    def _connection(self) -> Connection | None:
        return self._link.connection

    @property
    def _ended(self) -> bool:
        return not self._finalizer.alive or not self._host.alive

    def _metrics_text(self) -> str | None:
        """The engine's, or None while it cannot be asked. From any thread."""
        if self._ended or self._gate.apart:
            return None
        try:
            text: str = ask(self._host.api, wire.Ask(metrics=True), _SCRAPE_SECONDS, lambda: self._host.alive).text
        except (TimeoutError, msgspec.DecodeError):
            return None
        return text


CheckpointableAsyncLLM.register(InProcessAsyncLLM)


def _stderr() -> int:
    """The program's, also where Python's is something else, as in a notebook."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2


def _look_at(future: "asyncio.Future[Any]") -> None:
    """So that nobody is told of an exception that nobody asked for."""
    if not future.cancelled():
        future.exception()
