"""vLLM's AsyncLLM as a library whose engine can be frozen and thawed, without Kubernetes: see README.md beside this.

`CheckpointableAsyncLLM` runs the engine in processes of its own, in namespaces of their own, so that it can be frozen
and so that nothing of it outlives the program.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vernal_worker.client.async_llm import CheckpointableAsyncLLM
    from vernal_worker.client.host import EngineFailedError

__all__ = ["CheckpointableAsyncLLM", "EngineFailedError"]


def __getattr__(name: str) -> Any:
    # Imported when needed: the engine's keeper is in this package too, and has no use for vllm.
    if name == "CheckpointableAsyncLLM":
        from vernal_worker.client.async_llm import CheckpointableAsyncLLM

        return CheckpointableAsyncLLM
    if name == "EngineFailedError":
        from vernal_worker.client.host import EngineFailedError

        return EngineFailedError
    raise AttributeError(name)
