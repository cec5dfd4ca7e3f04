"""A scheduler for tests: with `engineArgs.schedulerCls: vernal_worker.engine.holding.HoldingScheduler`, a request that
says `"vllm_xargs": {"hold": PATH}` stays in flight for as long as there is a file PATH.

It gets its first token at once and no further one before the file is gone. The engine does not wait with it: others
run on, and the request can be aborted. What does not ask for it is scheduled as ever.
"""

from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler


class HoldingScheduler(AsyncScheduler):  # type: ignore[misc]
    """vLLM's own, to which the requests that are held are not there while it schedules."""

    running: list[Any]

    def schedule(self, *arguments: Any, **options: Any) -> Any:
        running = self.running
        held = [request for request in running if _is_held(request)]
        if not held:
            return super().schedule(*arguments, **options)
        self.running = [request for request in running if request not in held]
        try:
            return super().schedule(*arguments, **options)
        finally:
            self.running = held + self.running


def _is_held(request: Any) -> bool:
    parameters = request.sampling_params
    path = (parameters.extra_args or {}).get("hold") if parameters is not None else None
    # A token that was scheduled and has not come yet (a placeholder) is its first one, too.
    begun = request.num_output_tokens + request.num_output_placeholders > 0
    return isinstance(path, str) and begun and Path(path).exists()
