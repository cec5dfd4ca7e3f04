"""The engine's side of the Python API: calls of AsyncLLM that come over ZMQ from `vernal_worker.client`.

The socket is made when the program asks for it (after a start, cold or thawed) and closed before a freeze, so that a
frozen engine has no connection that leads out of its tree.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import zmq
import zmq.asyncio
from vllm.engine.protocol import StreamingInput
from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput, PoolingRequestOutput, RequestOutput
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.stats import RequestStateStats

from vernal_worker.engine import errors, readable, sessions, wire

_logger = logging.getLogger(__name__)
_PIECE = frozenset(wire.Piece.__struct_fields__)
_STATS = tuple(RequestStateStats.__dataclass_fields__)
_OWN_WAY = frozenset({"outputs", "finished", "metrics"})
_UNSENT = object()

_Chunks = asyncio.Queue[wire.Chunk | wire.ChunksEnd]


class ApiServer:
    """Serves one program at a time. All methods belong to the event loop's thread."""

    def __init__(self, llm: AsyncLLM, metrics: Callable[[], str]) -> None:
        """`metrics` returns the engine's, in Prometheus' text format."""
        self._llm, self._metrics = llm, metrics
        self._encode, self._decode = wire.encoder(), wire.engine_decoder()
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._background: list[asyncio.Task[None]] = []
        self._peer: bytes | None = None
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._chunks: dict[int, _Chunks] = {}
        self._events: list[Any] = []
        self._failed: wire.Died | None = None  # for programs that come later, too
        self._guarded = False

    async def open(self, path: str) -> None:
        """Serve on a new socket at `path`.

        Raises:
            RuntimeError: one is open.
            zmq.ZMQError: the socket cannot be made there.
        """
        if self._socket is not None:
            raise RuntimeError("the Python API is open already")
        if not self._guarded:
            readable.guard(self._llm.input_processor)
            sessions.guard(self._llm.output_processor)
            self._guarded = True
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self._socket.setsockopt(option, 0)
        self._socket.bind(f"ipc://{path}")
        os.chmod(path, 0o600)  # noqa: PTH101
        self._background = [asyncio.create_task(work) for work in (self._receive(self._socket), self._watch())]
        for task in self._background:
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """End all requests, and leave no descriptor and no thread of the socket."""
        for task in self._background:
            task.cancel()
        await self._end_requests()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._background, self._peer, self._events, self._failed = [], None, [], None
        if self._socket is not None and self._context is not None:
            self._socket.close()
            self._context.term()
            self._socket = self._context = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Without it the program would wait for ever: nobody looks at what became of these."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        _logger.error("the Python API has failed", exc_info=error)
        why = f"the engine's API has failed: {type(error).__name__}: {error}; see the engine's log"
        self._failed = wire.Died(why)
        self._emit(self._failed)

    async def _end_requests(self) -> None:
        tasks = list(self._requests.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- messages ---

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            peer, *frames = await socket.recv_multipart()
            data = b"".join(frames)
            try:
                message = self._decode(data)
            except Exception as error:  # also what a constructor of one of vLLM's classes raises
                if peer == self._peer:
                    self._refuse(wire.number_of(data), f"the engine does not understand a message: {error}")
                continue
            try:
                await self._take(socket, peer, message)
            except Exception as error:
                _logger.exception("a message of the program cannot be handled")
                if peer == self._peer:
                    why = f"the engine cannot do what a message asks: {type(error).__name__}: {error}"
                    self._refuse(getattr(message, "number", None), why)

    async def _take(self, socket: zmq.asyncio.Socket, peer: bytes, message: wire.ToEngine) -> None:
        if isinstance(message, wire.Ask):
            self._tell(socket, peer, message)
        elif isinstance(message, wire.Hello):
            await self._end_requests()
            self._events.clear()
            self._peer = peer
            if self._failed is not None:
                self._emit(self._failed)
            self._emit(self._welcome())
        elif peer == self._peer:
            self._handle(message)

    def _tell(self, socket: zmq.asyncio.Socket, peer: bytes, question: wire.Ask) -> None:
        try:
            answer = wire.Metrics(self._metrics()) if question.metrics else self._welcome()
        except Exception:  # who asks waits for so long; the others are still served
            _logger.exception("a question cannot be answered")
            return
        self._send(socket, peer, [answer])

    def _refuse(self, number: int | None, why: str) -> None:
        """Whoever waits for the answer to a message is told that there is none; if nobody knows who, all are."""
        _logger.warning("%s", why)
        if number is None:
            self._emit(wire.Died(why))
            return
        if (task := self._requests.get(number)) is not None:  # a later part of its input
            task.cancel()
        self._emit(wire.Failed(number, errors.pack(ValueError(why))))

    def _handle(self, message: wire.ToEngine) -> None:
        match message:
            case wire.Generate():
                if message.prompt is None:  # before the next message, which may be its first part, is looked at
                    self._chunks[message.number] = asyncio.Queue()
                self._start(message.number, partial(self._generate, message))
            case wire.Call():
                self._start(message.number, partial(self._call, message))
            case wire.Cancel():
                if (task := self._requests.get(message.number)) is not None:
                    task.cancel()
            case wire.Chunk() | wire.ChunksEnd():
                if (chunks := self._chunks.get(message.number)) is not None:
                    chunks.put_nowait(message)

    def _start(self, number: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except Exception as error:
                self._emit(wire.Failed(number, errors.pack(error)))

        def forget(_: asyncio.Task[None]) -> None:  # also of a task that was cancelled before it began
            self._requests.pop(number, None)
            self._chunks.pop(number, None)

        task = self._requests[number] = asyncio.create_task(run())
        task.add_done_callback(forget)

    def _emit(self, event: Any) -> None:
        """Events of one turn of the event loop travel together."""
        if not self._events:
            asyncio.get_running_loop().call_soon(self._flush)
        self._events.append(event)

    def _flush(self, *, always: bool = False) -> None:
        events, self._events = self._events, []
        if self._socket is not None and self._peer is not None and (events or always):
            self._send(self._socket, self._peer, events)

    def _send(self, socket: zmq.asyncio.Socket, peer: bytes, events: list[Any]) -> None:
        llm = self._llm
        queued = llm.get_num_queued_tokens() if hasattr(llm, "get_num_queued_tokens") else 0
        batch = wire.Batch(events, llm.output_processor.get_num_unfinished_requests(), queued)
        with suppress(zmq.ZMQError):
            socket.send_multipart([peer, wire.encode_batch(self._encode, batch, _unsendable)])

    async def _watch(self) -> None:
        """Says that vLLM has died, for which it has no event; until then, that this process lives."""
        while not self._llm.errored:
            self._flush(always=True)
            await asyncio.sleep(wire.BEAT_SECONDS)
        self._emit(wire.Died(str(self._llm.dead_error)))

    def _welcome(self) -> wire.Welcome:
        config = self._llm.vllm_config
        sources = self._llm.get_kv_event_sources() if hasattr(self._llm, "get_kv_event_sources") else {}
        return wire.Welcome(
            max_model_len=config.model_config.max_model_len,
            cache={
                name: wire.pack(getattr(config.cache_config, name))
                for name in wire.FOUND_OUT
                if hasattr(config.cache_config, name)
            },
            log_stats=self._llm.log_stats,
            max_num_queued_reqs=getattr(config.scheduler_config, "max_num_queued_reqs", None),
            max_num_queued_tokens=getattr(config.scheduler_config, "max_num_queued_tokens", None),
            kv_event_sources=wire.pack(sources),
        )

    # --- requests ---

    async def _call(self, call: wire.Call) -> None:
        if call.method not in wire.METHODS:
            raise AttributeError(f"{call.method!r} cannot be called")
        result = await getattr(self._llm, call.method)(*call.args, **call.kwargs)
        self._emit(wire.Result(call.number, wire.pack(result)))

    async def _generate(self, request: wire.Generate) -> None:
        params, number = request.params, request.number
        if isinstance(params, PoolingParams):
            async for pooled in self._llm.encode(request.prompt, params, request.request_id, **request.options):
                self._emit(_pooled(number, pooled))
            return
        if params.output_kind is RequestOutputKind.CUMULATIVE:
            params.output_kind = RequestOutputKind.DELTA  # the program adds up
        prompt = request.prompt
        if prompt is None:
            prompt = _inputs(self._chunks[number])
        differences = _Differences(number)
        finished = False
        async for output in self._llm.generate(prompt, params, request.request_id, **request.options):
            finished = output.finished
            self._emit(differences.of(output))
        if not finished:
            self._emit(wire.End(number))


def _unsendable(event: Any, error: Exception) -> Any:
    """What is sent instead of an event: its request has failed."""
    number = getattr(event, "number", None)
    if number is None:
        return wire.Died(f"an event cannot be sent: {error}")
    return wire.Failed(number, errors.pack(TypeError(f"the answer cannot be sent: {error}")))


async def _inputs(chunks: _Chunks) -> AsyncGenerator[StreamingInput, None]:
    while isinstance(chunk := await chunks.get(), wire.Chunk):
        params = chunk.params
        if params is not None and params.output_kind is RequestOutputKind.CUMULATIVE:
            params.output_kind = RequestOutputKind.DELTA
        yield StreamingInput(prompt=chunk.prompt, sampling_params=params)


class _Differences:
    """What of a request's outputs has not been sent yet."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._begun = False
        self._sent: dict[str, Any] = {}
        self._lengths: dict[str, int] = {}  # of lists: that of a prompt which streams in grows where it is

    def of(self, output: RequestOutput) -> wire.Output:
        changed: dict[str, Any] | None = None
        sent = self._sent
        for name, value in vars(output).items():
            if name in _OWN_WAY:
                continue
            before = sent.get(name, _UNSENT)
            length = len(value) if type(value) is list else 0
            same = before is value and length == self._lengths[name]
            if not same and not (type(before) is type(value) is int and before == value):
                sent[name], self._lengths[name] = value, length
                changed = changed or {}
                changed[name] = wire.pack(value)
        stats = output.metrics if output.finished or not self._begun else None
        self._begun = True
        return wire.Output(
            self._number,
            output.finished,
            [_piece(completion) for completion in output.outputs],
            changed,
            [getattr(stats, name) for name in _STATS] if stats is not None else None,
        )


def _piece(completion: CompletionOutput) -> wire.Piece:
    attributes = vars(completion)
    more = {name: wire.pack(attributes[name]) for name in attributes.keys() - _PIECE if attributes[name] is not None}
    logprobs: Any = completion.logprobs
    if logprobs is not None:
        logprobs = wire.pack(logprobs if isinstance(logprobs, FlatLogprobs) else list(logprobs))
    token_ids = completion.token_ids
    return wire.Piece(
        completion.index,
        completion.text,
        token_ids if type(token_ids) is list else list(token_ids),
        completion.cumulative_logprob,
        completion.finish_reason,
        completion.stop_reason,
        logprobs,
        more or None,
    )


def _pooled(number: int, output: PoolingRequestOutput) -> wire.Pooled:
    return wire.Pooled(number, {name: wire.pack(value) for name, value in vars(output).items()})
