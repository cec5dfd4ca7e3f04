"""What vLLM's worker processes and EngineCore can be asked to do, over vLLM's own calls.

Workers get these methods through vLLM's `worker_extension_cls`. EngineCore has no such option:
`install_in_engine_core` adds them there, and runs in the EngineCore process because multiprocessing's spawn
imports the main module of the parent (`vernal_worker.engine.main`) in each child.
"""

import functools
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vernal_worker.engine import process
from vernal_worker.engine.collectives import hook
from vernal_worker.kv import lifecycle

if TYPE_CHECKING:
    from vernal_worker.engine.weights.save import Saved

_SPIN_SECONDS = 0.02
_WAKE_SECONDS = 0.1
_CHANGE_WEIGHTS = ("reload_weights", "update_weights", "finish_weight_update")


class WorkerExtension:
    """Mixed into vLLM's worker class. Names start with `vernal_` because vLLM refuses one that its class has
    already."""

    def vernal_release(self) -> None:
        lifecycle.release()

    def vernal_quiesce(self) -> None:
        hook.disconnect()
        process.trim()

    def vernal_resume(self, environment: dict[str, str], seed: int) -> None:
        process.become(environment, seed)
        lifecycle.reconnect()

    def vernal_connect(self) -> None:
        """All ranks at the same time; needed after `vernal_quiesce` if there are several on GPUs."""
        hook.connect()

    # The next four on a GPU only. These two are vLLM's.
    rank: int
    model_runner: Any

    def vernal_save_weights(self, directory: str, piece: int, ranks: int) -> "Saved":
        """See `weights.save.save`."""
        from vernal_worker.checkpoint.cuda.slots import default_threads
        from vernal_worker.engine.weights.save import save

        return save(Path(directory), self.rank, piece, default_threads(ranks))

    def vernal_resets_scales(self) -> bool:
        """Whether waking up sets the scales of an FP8 KV cache to 1: vLLM 0.26."""
        return hasattr(self.model_runner, "init_fp8_kv_scales")

    def vernal_adopt(self, socket: str) -> None:
        """See `weights.adopt.begin`."""
        from vernal_worker.engine.weights import adopt

        adopt.begin(socket, self.rank)

    def vernal_adopted(self) -> None:
        """See `weights.adopt.end`."""
        from vernal_worker.engine.weights import adopt

        adopt.end()

    def vernal_finish_transfers(self) -> None:
        """Let this worker's KV connector finish what is under way, however long it takes: vLLM's own shutdown kills a
        worker that takes more than 5 s. What vLLM calls later finds no connector and returns at once."""
        from vllm.distributed.kv_transfer import ensure_kv_transfer_shutdown

        ensure_kv_transfer_shutdown()


QUALIFIED_NAME = f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}"


class EngineCoreExtension(WorkerExtension):
    """What EngineCore gets."""

    structured_output_manager: Any  # these two are vLLM's
    scheduler: Any

    def vernal_forget_grammars(self) -> None:
        """Let the next request for structured output choose the backend, as in a process that had none: vLLM keeps the
        first one's for good, whatever a later schema needs. What the backends have loaded stays loaded."""
        manager = self.structured_output_manager
        manager.backend = None
        if not self.scheduler.has_unfinished_requests():  # else it is in use
            manager._grammar_bitmask = None  # of the backend's width

    def vernal_unshield(self) -> None:
        """vLLM's shutdown speaks to EngineCore through SIGTERM. Workers need none: they see their death pipe
        close."""
        process.unshield()
        threading.Thread(target=_keep_awake, args=[self], name="vernal-keep-awake", daemon=True).start()


def _keep_awake(core: Any) -> None:
    """Give EngineCore's main thread something to do until it has seen the SIGTERM. Python handles a signal between two
    instructions: one that comes just before the thread begins to wait for its queue would be seen with the next
    request, which never comes (3 of 100 shutdowns on a busy machine, vLLM 0.32)."""
    from vllm.v1.engine import EngineCoreRequestType
    from vllm.v1.engine.core import EngineShutdownState

    while core.shutdown_state == EngineShutdownState.RUNNING:
        core.input_queue.put_nowait((EngineCoreRequestType.WAKEUP, None))
        time.sleep(_WAKE_SECONDS)


_UTILITIES = ("vernal_release", "vernal_quiesce", "vernal_resume", "vernal_unshield", "vernal_forget_grammars")


def install_in_engine_core() -> None:
    """Give this process's EngineCore the extension's methods, as utilities that its client can call by
    name."""
    from vllm.v1.engine.core import EngineCore

    _watch_weights(EngineCore)
    for name in _UTILITIES:
        setattr(EngineCore, name, getattr(EngineCoreExtension, name))


def _watch_weights(core: Any) -> None:
    """Tell KV connectors of new weights. vLLM does only where a caller asks it to clear caches."""
    call = core.collective_rpc

    @functools.wraps(call)  # vLLM looks at the signature
    def collective_rpc(self: Any, method: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return call(self, method, *arguments, **options)
        finally:
            if method in _CHANGE_WEIGHTS:
                lifecycle.weights_changed()

    core.collective_rpc = collective_rpc


def _spin_less() -> None:
    """vLLM's processes wait for each other's next message in a busy loop for a second before they sleep: on a CPU that
    takes a core from those that compute, after each request."""
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        SpinCondition.__init__.__defaults__ = (_SPIN_SECONDS,)


# vLLM imports this module in a worker process before it makes its queues and communicators, and offers no other place.
hook.install()
_spin_less()
