"""The program's end of the Python API's socket: one connection, on one event loop, for all requests."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from vllm.lora.request import LoRARequest
from vllm.outputs import STREAM_FINISHED
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector

from vernal_worker.client.outputs import Assembly, pooled
from vernal_worker.engine import errors, wire

_HELLO_SECONDS = 60.0
_NAMED = 5
SILENT_BEATS = 120
"""An engine that has not sent so many beats (`wire.BEAT_SECONDS`) is taken for gone: its event loop stands still."""


class Stream:
    """A request whose outputs come in."""

    def __init__(self, queue: RequestOutputCollector, cumulative: bool) -> None:
        self.queue = queue
        self.assembly = Assembly(cumulative)


class Connection:
    """Use from the event loop that it was opened on."""

    def __init__(self, path: str, engine: int) -> None:
        """Connect to the socket at `path`; `engine` is a pidfd of the process whose end ends the connection."""
        self.loop = asyncio.get_running_loop()
        self.welcome: asyncio.Future[wire.Welcome] = self.loop.create_future()
        self.unfinished = self.queued_tokens = 0
        self.dead: str | None = None
        self._numbers = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._calls: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._encode, self._decode = wire.encoder(), wire.program_decoder()
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self._socket.setsockopt(option, 0)
        self._socket.connect(f"ipc://{path}")
        self._silent = 0
        self._tasks = [self.loop.create_task(work) for work in (self._receive(), self._listen())]
        self._pidfd = os.dup(engine)
        self.loop.add_reader(self._pidfd, self._died)
        self.send(wire.Hello())

    async def opened(self) -> wire.Welcome:
        """Raises: TimeoutError: the engine does not answer."""
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                return await asyncio.shield(self.welcome)
        except TimeoutError:
            raise TimeoutError(f"the engine has not answered a greeting within {_HELLO_SECONDS:g} s") from None

    @property
    def busy(self) -> bool:
        return bool(self._streams or self._calls)

    def what_runs(self) -> str:
        """Names what `busy` is about, for people; the first few of each."""
        requests = [f"request {stream.queue.request_id}" for stream in self._streams.values()]
        calls = [f"{method}()" for method, _ in self._calls.values()]
        names = [*requests, *calls]
        return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

    def send(self, message: wire.ToEngine) -> None:
        self._socket.send(self._encode(message))

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of AsyncLLM in the engine. Raises what it raises there, or EngineDeadError."""
        self._check()
        packed = [_packed(value) for value in args], {name: _packed(value) for name, value in kwargs.items()}
        number, answer = next(self._numbers), self.loop.create_future()
        message = self._encode(wire.Call(number, method, *packed))
        self._calls[number] = method, answer
        try:
            self._socket.send(message)
            return await answer
        except asyncio.CancelledError:
            if not self._socket.closed:
                self.send(wire.Cancel(number))
            raise
        finally:
            del self._calls[number]

    def start(self, request_id: str, prompt: Any, params: Any, options: dict[str, Any]) -> "RequestOutputCollector":
        """Begin a request; its outputs come into the collector.

        Raises:
            EngineDeadError; TypeError, ValueError, OverflowError: this is no request, or cannot be sent.
        """
        self._check()
        if not isinstance(params, SamplingParams | PoolingParams):
            raise TypeError(f"params must be SamplingParams or PoolingParams, not {type(params).__name__}")
        if prompt is None:  # which on the wire means that it comes in chunks
            raise TypeError("the prompt is None")
        number = next(self._numbers)
        chunks = prompt if isinstance(prompt, AsyncGenerator) else None
        # What cannot be sent is refused before anything waits for its answer.
        message = self._encode(
            wire.Generate(
                number,
                request_id,
                None if chunks is not None else wire.pack(prompt),
                wire.pack(params),
                {name: _packed(value) for name, value in options.items()},
            )
        )
        queue = _Collector(params.output_kind, request_id, lambda: self._cancel(number))
        self._streams[number] = Stream(queue, params.output_kind is RequestOutputKind.CUMULATIVE)
        self._socket.send(message)
        if chunks is not None:
            queue._input_stream_task = self.loop.create_task(self._feed(number, chunks, queue))
        return queue

    async def _feed(self, number: int, chunks: AsyncGenerator[Any, None], queue: RequestOutputCollector) -> None:
        """As long as there is the request: then the socket may be gone, and an error would hide what became of it."""
        try:
            async for chunk in chunks:
                if number not in self._streams:
                    return
                self.send(wire.Chunk(number, wire.pack(chunk.prompt), wire.pack(chunk.sampling_params)))
            if number in self._streams:
                self.send(wire.ChunksEnd(number))
        except Exception as error:
            if number in self._streams:
                queue.put(error)
                self._cancel(number)

    def _cancel(self, number: int) -> None:
        if self._streams.pop(number, None) is not None and not self._socket.closed:
            self.send(wire.Cancel(number))

    def close(self, reason: str = "the engine was shut down") -> None:
        """End the connection and whoever waits on it. From any thread, and also when its event loop is closed."""
        if self.loop.is_running() and _running_loop() is not self.loop:
            self.loop.call_soon_threadsafe(self._close, reason)
        else:
            self._close(reason)

    def _close(self, reason: str) -> None:
        self._fail(reason)
        if not self.loop.is_closed():
            for task in self._tasks:
                task.cancel()
        self._forget_engine()
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._socket.close(0)
        self._context.destroy(0)

    def _died(self) -> None:
        self._forget_engine()
        self._fail("the engine's processes are gone")

    def _forget_engine(self) -> None:
        if self._pidfd >= 0:
            if not self.loop.is_closed():
                self.loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _check(self) -> None:
        if self.dead is not None:
            raise EngineDeadError(self.dead)

    def _fail(self, reason: str) -> None:
        if self.dead is None:
            self.dead = reason
        if self.loop.is_closed():
            return
        waiting: list[Any] = [self.welcome, *(answer for _, answer in self._calls.values())]
        for future in waiting:
            if not future.done():
                future.set_exception(EngineDeadError(reason))
                future.exception()  # whether or not anybody asks
        for stream in self._streams.values():
            stream.queue.put(EngineDeadError(reason))
        self._streams.clear()

    async def _receive(self) -> None:
        try:
            while True:
                batch = self._decode(await self._socket.recv())
                self._silent = 0
                self.unfinished, self.queued_tokens = batch.unfinished, batch.queued_tokens
                for event in batch.events:
                    self._take(event)
        except Exception as error:
            self._fail(f"the engine's messages are not understood: {type(error).__name__}: {error}")

    async def _listen(self) -> None:
        """Notices that the engine has fallen silent. By turns of this event loop, not by a clock: as long as the
        program lets nothing run, nothing is heard."""
        while self._silent < SILENT_BEATS:
            await asyncio.sleep(wire.BEAT_SECONDS)
            self._silent += 1
        self._fail(f"the engine's process has said nothing for {SILENT_BEATS * wire.BEAT_SECONDS:g} s")

    def _take(self, event: Any) -> None:
        """What a request gets is put together before it is forgotten: where that fails, it is told like all."""
        match event:
            case wire.Output():
                if (stream := self._streams.get(event.number)) is not None:
                    stream.queue.put(stream.assembly.add(event))
                    if event.finished:
                        self._streams.pop(event.number, None)
            case wire.Pooled():
                if (stream := self._streams.get(event.number)) is not None:
                    stream.queue.put(pooled(event))
                    self._streams.pop(event.number, None)
            case wire.Result():
                self._answer(event.number, lambda answer: answer.set_result(event.value))
            case wire.Failed():
                error = errors.unpack(event.error)
                if (stream := self._streams.pop(event.number, None)) is not None:
                    stream.queue.put(error)
                self._answer(event.number, lambda answer: answer.set_exception(error))
                if isinstance(error, EngineDeadError):  # the engine itself notices within a second
                    self._fail(str(error))
            case wire.End():
                if (stream := self._streams.get(event.number)) is not None:
                    stream.queue.put(STREAM_FINISHED)
                    self._streams.pop(event.number, None)
            case wire.Welcome():
                if not self.welcome.done():
                    self.welcome.set_result(event)
            case wire.Died():
                self._fail(event.message)

    def _answer(self, number: int, give: Callable[[asyncio.Future[Any]], None]) -> None:
        _, answer = self._calls.get(number, ("", None))
        if answer is not None and not answer.done():
            give(answer)


def _packed(value: Any) -> Any:
    """An adapter's directory as the program names it: the engine works in another one."""
    if isinstance(value, LoRARequest) and Path(value.lora_path).is_dir():
        value = msgspec.structs.replace(value, lora_path=str(Path(value.lora_path).absolute()))
    return wire.pack(value)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Collector(RequestOutputCollector):  # type: ignore[misc]  # vllm has no types for us
    """vLLM's collector; closing it before the last output ends the request in the engine."""

    def __init__(self, kind: RequestOutputKind, request_id: str, cancel: Callable[[], None]) -> None:
        super().__init__(kind, request_id)
        self._cancel = cancel

    def close(self) -> None:
        super().close()
        self._cancel()
