"""The requests of a program: AsyncLLM's `generate`, `encode` and `add_request`."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from vllm.outputs import STREAM_FINISHED, PoolingRequestOutput, RequestOutput
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.output_processor import RequestOutputCollector

from vernal_worker.client.connection import Connection
from vernal_worker.client.gate import Gate


class Requests:
    """Mixed into `CheckpointableAsyncLLM`."""

    _gate: Gate

    async def _connect(self) -> Connection:
        """The connection of this event loop."""
        raise NotImplementedError

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
        async with self._gate.use():
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
        async with self._gate.use():
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


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that are not what AsyncLLM takes anyway; so a version of vLLM that lacks one can be used without it."""
    if options.get("trace_headers") is not None:
        options = {**options, "trace_headers": dict(options["trace_headers"]) or None}
    return {name: value for name, value in options.items() if value is not None and (name, value) != ("priority", 0)}
