"""vLLM's AsyncLLM with an engine that can be frozen and thawed."""

import asyncio
import contextlib
import os
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import msgspec
from vernal_contract.config import CheckpointConfig, CheckpointPolicy, WorkerConfig
from vernal_contract.state import WorkerState
from vllm.engine.protocol import EngineClient
from vllm.outputs import STREAM_FINISHED, PoolingRequestOutput, RequestOutput
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector

from vernal_worker.client import settings
from vernal_worker.client.calls import Calls
from vernal_worker.client.connection import Connection
from vernal_worker.client.host import EngineHost
from vernal_worker.client.messages import How

PathLike = str | os.PathLike[str]
MEANWHILE = frozenset({"abort", "check_health", "is_paused", "is_sleeping", "resume_generation", "wake_up"})
"""Methods that are answered while a freeze waits for requests."""


class _Link:
    """Holds the connection, if there is one; known to the finalizer, which must not know the object."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def close(self, reason: str) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close(reason)


def _end(host: EngineHost, link: _Link) -> None:
    link.close("the engine was shut down")
    host.end()


class CheckpointableAsyncLLM(Calls, EngineClient):  # type: ignore[misc]  # vllm has no types for us
    """The methods of vLLM's AsyncLLM, answered by an engine in processes of its own.

    Make one with `create` (or `thaw`, or AsyncLLM's `from_engine_args`), and end it with `close`, `shutdown` or
    `async with`. If none of that happens, the engine ends when this object is collected or the program ends, however
    it ends. Needs root, as CRIU does. Signals are left alone: they are the program's.

    Use it from one event loop at a time. `vllm_config`, `renderer` and what follows from them are made in the
    program's process when they are first asked for, which takes seconds; generating does not need them.
    """

    def __init__(self, worker: WorkerConfig, *, criu: str, output: int | None) -> None:
        """Makes the processes that will hold the engine. Use `create`.

        Raises:
            EngineFailedError: this host cannot; the message says why and what to do.
        """
        self._worker = worker
        self._open: asyncio.Event | None = None
        self._running = 0
        self._apart = False
        output = output if output is not None else sys.stderr.fileno()
        self._host = EngineHost(worker, settings.environment(worker), criu, output)
        self._link = _Link()
        self._finalizer = weakref.finalize(self, _end, self._host, self._link)
        self.report: WorkerState
        """How the engine came up, and what became of its last freeze: as a worker's `/state`."""

    def _start(self, how: How) -> Self:
        """Blocks until there is an engine. Ends early when `_host` is closed.

        Raises:
            EngineFailedError: there is none; the message says why and what to do.
        """
        try:
            self.report = self._host.start(how)
        except BaseException:
            self._finalizer()
            raise
        return self

    # --- ways to make one ---

    @classmethod
    async def create(
        cls,
        model: str,
        *,
        start: How | str = How.AUTO,
        checkpoint_dir: PathLike | None = None,
        checkpoint: CheckpointConfig | None = None,
        criu: str | None = None,
        output: int | None = None,
        **engine_args: Any,
    ) -> Self:
        """Start or thaw an engine.

        Args:
            model: a directory, or a name on the Hugging Face hub.
            start: `cold` starts vLLM; `thaw` thaws or fails; `auto` thaws a checkpoint that fits or, if there is none,
                starts vLLM and makes one.
            checkpoint_dir: a directory for checkpoints, of any number of engines. Without one, `auto` means `cold`.
            checkpoint: time-outs and how much is verified; its policy and store path are not looked at.
            criu: CRIU's path; default: VERNAL_CRIU, else `criu` on the PATH.
            output: descriptor for what the engine writes; default: the program's stderr.
            engine_args: vLLM's (`AsyncEngineArgs`), in plain values.

        Raises:
            EngineFailedError: there is no engine; the message says why and what to do.
            ArgumentError: an engine argument is not possible.
        """
        how = How(start) if checkpoint_dir is not None else How.COLD
        if checkpoint_dir is None and start == How.THAW:
            raise ValueError("start='thaw' needs checkpoint_dir")
        config = _checkpoint(checkpoint, checkpoint_dir)
        arguments = {"model": model, **engine_args}
        worker = await asyncio.to_thread(settings.worker_config, arguments, config)
        return await cls(worker, criu=_criu(criu), output=output)._started(how)

    @classmethod
    async def thaw(
        cls,
        checkpoint_dir: PathLike,
        *,
        checkpoint: CheckpointConfig | None = None,
        criu: str | None = None,
        output: int | None = None,
    ) -> Self:
        """Thaw the newest checkpoint in `checkpoint_dir`, with the engine arguments that it was made with.

        Raises:
            EngineFailedError: there is none, it does not fit this host or these versions, or it is damaged.
        """
        config = _checkpoint(checkpoint, checkpoint_dir)
        worker = await asyncio.to_thread(settings.frozen_config, config)
        return await cls(worker, criu=_criu(criu), output=output)._started(How.THAW)

    @classmethod
    def from_engine_args(
        cls,
        engine_args: Any,
        start_engine_loop: bool = True,
        usage_context: Any = None,
        stat_loggers: list[Any] | None = None,
        *,
        start: How | str = How.AUTO,
        checkpoint_dir: PathLike | None = None,
        checkpoint: CheckpointConfig | None = None,
        criu: str | None = None,
        output: int | None = None,
    ) -> Self:
        """As AsyncLLM's, blocking, with `create`'s keywords. `start_engine_loop` and `usage_context` have no effect.

        Raises:
            ValueError: `stat_loggers` are objects of this process and cannot be in the engine's.
            EngineFailedError, ArgumentError: as `create`.
        """
        if stat_loggers:
            raise ValueError("stat_loggers cannot be given: the engine is in another process")
        how = How(start) if checkpoint_dir is not None else How.COLD
        config = _checkpoint(checkpoint, checkpoint_dir)
        worker = settings.worker_config(settings.plain(engine_args), config)
        return cls(worker, criu=_criu(criu), output=output)._start(how)

    @classmethod
    def from_vllm_config(cls, vllm_config: Any, *args: Any, **kwargs: Any) -> Self:
        """Not possible: a checkpoint is known by its engine arguments, and these cannot be told from a VllmConfig.

        Raises: NotImplementedError.
        """
        raise NotImplementedError("make it from engine arguments: create() or from_engine_args()")

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
            EngineFailedError: it was not frozen, and serves all the same (if it does not, `errored` says so).
            TimeoutError: requests were still running; it names them. Nothing has changed.
        """
        gate = self._gate()
        while not gate.is_set():
            await gate.wait()
        gate.clear()
        try:
            try:
                async with asyncio.timeout(drain_timeout):
                    # Nothing tells when the last collector that the program holds is closed.
                    while self._running or self._busy:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            except TimeoutError:
                raise TimeoutError(f"not frozen: after {drain_timeout:g} s there runs {self._what_runs()}") from None
            self._apart = True
            self._disconnect("the engine is being frozen")
            freezing = asyncio.ensure_future(asyncio.to_thread(self._host.freeze, checkpoint_dir))
            freezing.add_done_callback(lambda _: self._together(gate))  # also if nobody waits for it any more
        except BaseException:
            self._together(gate)
            raise
        self.report = await asyncio.shield(freezing)
        return self.report

    def _together(self, gate: asyncio.Event) -> None:
        self._apart = False
        gate.set()

    @property
    def _busy(self) -> bool:
        return self._link.connection is not None and self._link.connection.busy

    def _what_runs(self) -> str:
        connection = self._link.connection
        return (connection.what_runs() if connection is not None else "") or f"{self._running} calls"

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """As `shutdown`, without blocking the event loop."""
        self._disconnect("the engine was shut down")
        await asyncio.to_thread(self.shutdown, timeout)

    def shutdown(self, timeout: float | None = None) -> None:
        """End the engine: when this returns, no process, descriptor, file or shared memory of it is left. Requests
        that are running end with EngineDeadError. vLLM stops in order, and its KV connector finishes its transfers, if
        that takes no longer than `timeout` seconds (15 by default; 0: at once). Again is fine."""
        self._disconnect("the engine was shut down")
        if self._finalizer.detach() is not None:
            self._host.close(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- requests ---

    async def add_request(
        self,
        request_id: str,
        prompt: Any,
        params: SamplingParams | PoolingParams,
        arrival_time: float | None = None,
        lora_request: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
        *,  # from here on, vLLM's versions have different orders
        session_id: str | None = None,
        prompt_text: str | None = None,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: dict[str, Any] | None = None,
        kv_hints: Any = None,
    ) -> RequestOutputCollector:
        """Begin a request; its outputs come into the collector, which ends it when it is closed. `arrival_time` has no
        effect: the engine takes its own. Raises as `generate`."""
        options = {
            "lora_request": lora_request,
            "tokenization_kwargs": tokenization_kwargs,
            "trace_headers": trace_headers,
            "priority": priority,
            "data_parallel_rank": data_parallel_rank,
            "session_id": session_id,
            "prompt_text": prompt_text,
            "reasoning_ended": reasoning_ended,
            "reasoning_parser_kwargs": reasoning_parser_kwargs,
            "kv_hints": kv_hints,
        }
        async with self._use():
            return await self._begin(request_id, prompt, params, options)

    async def _begin(
        self, request_id: str, prompt: Any, params: Any, options: dict[str, Any]
    ) -> RequestOutputCollector:
        connection = await self._connect()
        return connection.start(request_id, prompt, params, _given(options))

    def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        prompt_text: str | None = None,
        lora_request: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
        session_id: str | None = None,
        kv_hints: Any = None,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: dict[str, Any] | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Generate, as AsyncLLM does. Leaving the generator early ends the request in the engine.

        Raises:
            EngineDeadError; what the engine raises, in its own class; TypeError: the prompt holds objects that
                cannot be sent.
        """
        return self._outputs(
            request_id,
            prompt,
            sampling_params,
            lora_request=lora_request,
            tokenization_kwargs=tokenization_kwargs,
            trace_headers=trace_headers,
            priority=priority,
            data_parallel_rank=data_parallel_rank,
            session_id=session_id,
            prompt_text=prompt_text,
            reasoning_ended=reasoning_ended,
            reasoning_parser_kwargs=reasoning_parser_kwargs,
            kv_hints=kv_hints,
        )

    def encode(
        self,
        prompt: Any,
        pooling_params: PoolingParams,
        request_id: str,
        lora_request: Any = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        tokenization_kwargs: dict[str, Any] | None = None,
        reasoning_ended: bool | None = None,
    ) -> AsyncGenerator[PoolingRequestOutput[Any], None]:
        """Pool, as AsyncLLM does; otherwise as `generate`."""
        return self._outputs(
            request_id,
            prompt,
            pooling_params,
            lora_request=lora_request,
            trace_headers=trace_headers,
            priority=priority,
            tokenization_kwargs=tokenization_kwargs,
            reasoning_ended=reasoning_ended,
        )

    async def _outputs(self, request_id: str, prompt: Any, params: Any, **options: Any) -> AsyncGenerator[Any, None]:
        async with self._use():
            queue = await self._begin(request_id, prompt, params, options)
            try:
                finished = False
                while not finished:
                    output = queue.get_nowait() or await queue.get()
                    finished = output.finished
                    if output is not STREAM_FINISHED:
                        yield output
            finally:
                queue.close()

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of AsyncLLM in the engine (`vernal_worker.engine.wire.METHODS`).

        Those of `MEANWHILE` are not held back by a freeze that waits for requests to end: they may be what it waits
        for. Once it has begun, `check_health` says whether the engine's processes are there, and no other is asked.

        Raises: EngineDeadError; what the method raises.
        """
        if method == "check_health" and self._apart and not self.errored:
            return None
        async with self._use(meanwhile=method in MEANWHILE):
            connection = await self._connect()
            return await connection.call(method, args, kwargs)

    @contextlib.asynccontextmanager
    async def _use(self, *, meanwhile: bool = False) -> AsyncIterator[None]:
        """While something runs, there is no freeze; while there is a freeze, nothing runs. `meanwhile`: nor is anything
        held back before it has really begun."""
        gate = self._gate()
        while not gate.is_set() and (self._apart or not meanwhile):
            await gate.wait()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def _gate(self) -> asyncio.Event:
        if self._open is None:
            self._open = asyncio.Event()
            self._open.set()
        return self._open

    # --- connection ---

    async def _connect(self) -> Connection:
        """The connection of this event loop."""
        if not self._finalizer.alive or not self._host.alive:
            self._disconnect("the engine is gone")
            raise EngineDeadError("the engine is gone")
        connection = self._link.connection
        if connection is None or connection.loop is not asyncio.get_running_loop():
            self._disconnect("another event loop uses the engine now")
            self._link.connection = connection = Connection(self._host.api, self._host.pidfd)
        await connection.opened()
        return connection

    def _disconnect(self, reason: str) -> None:
        self._link.close(reason)

    # --- what AsyncLLM knows without asking ---

    @property
    def is_running(self) -> bool:
        return not self.errored

    @property
    def is_stopped(self) -> bool:
        return self.errored

    @property
    def errored(self) -> bool:
        """Whether the engine is gone: it died, or was shut down."""
        dead = self._link.connection is not None and self._link.connection.dead is not None
        return dead or not self._finalizer.alive or not self._host.alive

    @property
    def dead_error(self) -> BaseException:
        connection = self._link.connection
        why = connection.dead if connection is not None else None
        error: BaseException = EngineDeadError(*([why] if why else []))
        return error

    def get_num_unfinished_requests(self) -> int:
        """As the engine said with its last message."""
        return self._link.connection.unfinished if self._link.connection is not None else 0

    def get_num_queued_tokens(self) -> int:
        """As the engine said with its last message."""
        return self._link.connection.queued_tokens if self._link.connection is not None else 0

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Refuse what would be over the engine's limits, going by its last message.

        Raises: QueueOverflowError, MaxQueuedTokensError (vLLM's).
        """
        connection = self._link.connection
        if connection is None or not connection.welcome.done():
            return
        from vllm import exceptions

        limits = connection.welcome.result()
        if limits.max_num_queued_reqs is not None and connection.unfinished + n > limits.max_num_queued_reqs:
            raise exceptions.QueueOverflowError
        if limits.max_num_queued_tokens is not None and connection.queued_tokens >= limits.max_num_queued_tokens:
            raise exceptions.MaxQueuedTokensError

    def get_kv_event_sources(self) -> dict[int, Any]:
        """As the engine said when the connection was opened; empty before."""
        connection = self._link.connection
        if connection is None or not connection.welcome.done():
            return {}
        sources: dict[int, Any] = connection.welcome.result().kv_event_sources
        return sources

    @cached_property
    def vllm_config(self) -> Any:
        """Made from the engine arguments; what the engine found out itself (cache size) is filled in once connected."""
        from vllm.engine.arg_utils import AsyncEngineArgs

        environment = dict(os.environ)
        try:
            config = AsyncEngineArgs(**settings.vllm_arguments(self._worker)).create_engine_config()
        finally:  # vLLM sets variables meanwhile that would make the next engine another one than its checkpoint's
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
        connection = self._link.connection
        if connection is not None and connection.welcome.done():
            welcome = connection.welcome.result()
            config.cache_config.num_gpu_blocks = welcome.num_gpu_blocks
            config.model_config.max_model_len = welcome.max_model_len
        return config

    @cached_property
    def model_config(self) -> Any:
        return self.vllm_config.model_config

    @cached_property
    def renderer(self) -> Any:
        from vllm.renderers import renderer_from_config

        return renderer_from_config(self.vllm_config)

    @cached_property
    def input_processor(self) -> Any:
        from vllm.v1.engine.input_processor import InputProcessor

        return InputProcessor(self.vllm_config, self.renderer)

    @property
    def tokenizer(self) -> Any:
        return self.renderer.tokenizer

    def get_tokenizer(self) -> Any:
        return self.renderer.get_tokenizer()


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that are not what AsyncLLM takes anyway; so a version of vLLM that lacks one can be used without it."""
    if options.get("trace_headers") is not None:
        options = {**options, "trace_headers": dict(options["trace_headers"]) or None}
    return {name: value for name, value in options.items() if value is not None and (name, value) != ("priority", 0)}


def _checkpoint(checkpoint: CheckpointConfig | None, directory: PathLike | None) -> CheckpointConfig:
    store = str(Path(directory).resolve()) if directory is not None else ""
    if store:
        Path(store).mkdir(mode=0o700, parents=True, exist_ok=True)
    return msgspec.structs.replace(
        checkpoint or CheckpointConfig(), policy=CheckpointPolicy.AUTO, store_path=store or "/nonexistent"
    )


def _criu(criu: str | None) -> str:
    return criu or os.environ.get("VERNAL_CRIU") or "criu"


def _look_at(future: "asyncio.Future[Any]") -> None:
    """So that nobody is told of an exception that nobody asked for."""
    if not future.cancelled():
        future.exception()
