"""Room on the GPUs: how much is wanted, whether it is there, and waiting for it while somebody else holds it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vernal_contract.reasons import NEXT_STEP, Reason

from vernal_worker.checkpoint.cuda.layout import short
from vernal_worker.checkpoint.cuda.messages import Room
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.supervisor import log
from vernal_worker.supervisor.context import Context, StoppedError

UTILIZATION = 0.9
"""vLLM's `gpu_memory_utilization` where an engine's arguments do not say it, or a little less than that."""

_POLL = 0.5
_GIB = 1 << 30


def insufficient(wanted: Sequence[int], room: Room) -> str | None:
    """What is missing, with bytes wanted and free; None if nothing is, or if nobody can tell."""
    if not (numbers := short(wanted, room.free)):
        return None
    return "; ".join(
        f"GPU {number}: {wanted[number]} bytes wanted ({wanted[number] / _GIB:.1f} GiB), {room.free[number]} free "
        f"({room.free[number] / _GIB:.1f} GiB)"
        for number in numbers
    )


def never(wanted: Sequence[int], room: Room) -> bool:
    """Whether a GPU is too small, however little others hold."""
    return bool(short(wanted, room.total))


def for_cold_start(arguments: Mapping[str, Any], count: int, room: Room) -> list[int]:
    """What vLLM insists on when it starts with these arguments (canonical) on the first `count` GPUs."""
    share = float(arguments.get("gpu_memory_utilization") or UTILIZATION)
    return [math.ceil(total * share) for total in room.total[:count]]


class RoomWait:
    """Waiting for room, for `checkpoint.gpuMemoryWaitSeconds` of a whole start."""

    def __init__(self, context: Context) -> None:
        self._board, self._stop = context.board, context.stop
        self._seconds = context.settings.config.checkpoint.gpu_memory_wait_seconds
        self._deadline: float | None = None

    def until(self, room: Callable[[], Room], wanted: Callable[[Room], Sequence[int]]) -> None:
        """Return when the GPUs have what is wanted free, or if nobody can tell.

        Raises:
            CheckpointError: `GPU_MEMORY_INSUFFICIENT`: the time is up, or a GPU is too small at all; or what `room`
                raises.
            StoppedError: the worker was told to stop meanwhile.
        """
        waited = False
        try:
            while (problem := insufficient(needed := wanted(found := room()), found)) is not None:
                if self._deadline is None:
                    self._deadline = time.monotonic() + self._seconds
                left = self._deadline - time.monotonic()
                if left <= 0 or never(needed, found):
                    waiting = f", also after {self._seconds:g} s" if waited else ""
                    raise CheckpointError(Reason.GPU_MEMORY_INSUFFICIENT, "cuda", problem + waiting)
                self._board.update(waiting_for=f"GPU memory that another process holds: {problem}")
                if not waited:
                    step = NEXT_STEP[Reason.GPU_MEMORY_INSUFFICIENT]
                    log.event("gpu_memory_wait", message=problem, seconds_left=left, next_step=step)
                waited = True
                if self._stop.signalled.wait(_POLL):
                    raise StoppedError
        finally:
            self._board.update(waiting_for="")
        if waited:
            log.event("gpu_memory_free", message="the GPUs have what is wanted free")
