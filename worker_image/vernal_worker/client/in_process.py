"""vLLM's AsyncLLM itself, where checkpointing is disabled."""

import asyncio
from typing import Any, NoReturn, Self

from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, StartMode, WorkerState
from vllm.v1.engine.async_llm import AsyncLLM

from vernal_worker.client.host import EngineFailedError
from vernal_worker.engine import wire


class InProcessAsyncLLM(AsyncLLM):  # type: ignore[misc]  # vllm has no types for us
    """AsyncLLM with what CheckpointableAsyncLLM has beyond it. Its processes are those that vLLM starts; it needs no
    root, no namespaces and no CRIU, and it cannot be frozen."""

    report: WorkerState = WorkerState(
        pod="",
        namespace="",
        pool="",
        revision="",
        phase=Phase.READY,
        ready=True,
        start_mode=StartMode.COLD,
        start_reason=Reason.POLICY_DISABLED,
        start_message="checkpointing is disabled",
    )

    async def freeze(self, *_: Any, **__: Any) -> NoReturn:
        """Raises: EngineFailedError: `PolicyDisabled`."""
        raise EngineFailedError(
            Reason.POLICY_DISABLED, "checkpointing is disabled; start with another value of start= or VERNAL_START"
        )

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method by name. Raises: AttributeError: it is not one of `vernal_worker.engine.wire.METHODS`."""
        if method not in wire.METHODS:
            raise AttributeError(f"{method!r} cannot be called")
        return await getattr(self, method)(*args, **kwargs)

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """As `shutdown`, without blocking the event loop."""
        await asyncio.to_thread(self.shutdown, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
