"""The engine's environment: pure. It is frozen with the engine, so nothing in it may name a pod or be
secret."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from vernal_contract.config import WorkerConfig
from vernal_contract.variables import NEVER, shapes

from vernal_worker.checkpoint.hostname import HOST_NAME
from vernal_worker.control.protocol import PodIdentity


class RunPaths(msgspec.Struct, frozen=True):
    """Places that belong to one worker, the same in every pod. Those under `carried` travel with a
    checkpoint."""

    root: Path

    @property
    def socket(self) -> Path:
        return self.root / "engine.sock"

    @property
    def memory(self) -> Path:
        """Where the engine fetches GPU memory from the CUDA helper."""
        return self.root / "memory.sock"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def criu(self) -> Path:
        """CRIU's logs."""
        return self.root / "criu"

    @property
    def thawing(self) -> Path:
        """Names the generation that is being thawed."""
        return self.root / "thawing"

    @property
    def freezing(self) -> Path:
        """Is there while the engine is frozen."""
        return self.root / "freezing"

    @property
    def carried(self) -> tuple[Path, ...]:
        return (self.tmp, self.cache)


FORCED = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
    # With fork, vLLM's processes inherit open devices, which CRIU cannot dump.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # CRIU cannot dump io_uring.
    "UV_USE_IO_URING": "0",
}

"""For every engine."""

FOR_FREEZING = {
    # The pod's address and host name must not be in a checkpoint: everything inside talks over loopback.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
"""For an engine that may be frozen."""

QUICK_TO_RESTORE = {
    # Queues to the GPU that a context has. The 8 that CUDA makes take the driver 0.1 s to bring back; with 2 a stream
    # still runs beside another one.
    "CUDA_DEVICE_MAX_CONNECTIONS": "2",
}
"""For an engine that may be frozen. A pool's own settings come before these."""

SEVERAL_GPUS = {
    # All-reduce and all-gather over memory that is given up before a freeze (`vernal_worker.engine.collectives`).
    "VERNAL_COLLECTIVES": "nvlink",
    # What drivers before 610 cannot take off the GPUs: memory shared between processes (CUDA IPC), with which NCCL
    # and vLLM use NVLink, and multicast objects.
    "NCCL_P2P_DISABLE": "1",
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_NVLS_ENABLE": "0",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
    # What CRIU cannot dump or restore: devices, pinned shared memory, sockets and threads that watch.
    "NCCL_IB_DISABLE": "1",
    "NCCL_SHM_DISABLE": "1",
    "NCCL_CUMEM_HOST_ENABLE": "0",
    "NCCL_RAS_ENABLE": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}
"""For an engine on several GPUs that may be frozen. A pool's own settings come before these."""


class VariableError(ValueError):
    """A variable cannot be used; the message names it."""


def tuning(parent: Mapping[str, str], config: WorkerConfig, *, freezable: bool) -> dict[str, str]:
    """The variables that shape the engine: the pool's own, and those that the container has and `shapes`.
    `freezable`: whether the engine may be frozen at all.

    Raises:
        VariableError: the pool sets a secret or a variable of `FORCED` (or, if it applies, `FOR_FREEZING`) openly.
    """
    forced = {**FORCED, **(FOR_FREEZING if freezable else {})}
    for name in config.engine_env:
        if name in NEVER or name in config.secret_env:
            raise VariableError(f"engineEnv.{name} would be in the checkpoint; put it into the pool's secrets")
        if name in forced:
            raise VariableError(f"engineEnv.{name} cannot be set: Vernal sets it to {forced[name]!r}")
    inherited = {
        name: value for name, value in parent.items() if shapes(name) and name not in {*forced, *config.secret_env}
    }
    return dict(sorted({**inherited, **config.engine_env}.items()))


def names_pod(shaping: Mapping[str, str], pod: PodIdentity) -> str | None:
    """Why the engine cannot be frozen: one of its variables says in which pod it is, and would say so in every other
    one. None if none does."""
    own = {"name": pod.name, "uid": pod.uid, "address": pod.ip, "node": pod.node}
    for name, value in shaping.items():
        words = set(re.split(r"[\s,;:/=@\[\]]+", value)) | {value}
        for what, text in own.items():
            if text and text != HOST_NAME and text in words:
                return (
                    f"{name} is this pod's {what} ({value!r}), which would be in every worker that thaws it:"
                    " leave it out of the pod template, or set checkpoint.policy Disabled"
                )
    return None


def engine_environment(
    shaping: Mapping[str, str],
    config: WorkerConfig,
    paths: RunPaths,
    *,
    freezable: bool,
    several_gpus: bool = False,
) -> dict[str, str]:
    """The whole environment of the engine. `shaping` is from `tuning`; `freezable`: so that it can be frozen, and
    `several_gpus`: with processes on more than one. One that is not frozen is left as the pool wants it."""
    home = shaping.get("HOME", "/root")
    result = {
        "HOME": home,
        # Not under XDG_CACHE_HOME, which travels with the checkpoint.
        "HF_HOME": f"{home}/.cache/huggingface",
        "TMPDIR": str(paths.tmp),
        "XDG_CACHE_HOME": str(paths.cache),
        "TORCHINDUCTOR_CACHE_DIR": str(paths.cache / "torchinductor"),
        "TRITON_CACHE_DIR": str(paths.cache / "triton"),
        # Compilers that keep what they made in the home directory otherwise, mapped for as long as the engine runs.
        "CUDA_CACHE_PATH": str(paths.cache / "nv"),
        "FLASHINFER_WORKSPACE_BASE": str(paths.cache),
        "TORCH_EXTENSIONS_DIR": str(paths.cache / "torch_extensions"),
        "TVM_FFI_CACHE_DIR": str(paths.cache / "tvm-ffi"),
        "TILELANG_CACHE_DIR": str(paths.cache / "tilelang"),
        "CUTE_DSL_CACHE_DIR": str(paths.cache / "cute_dsl"),
        **(QUICK_TO_RESTORE if freezable else {}),
        **(SEVERAL_GPUS if freezable and several_gpus else {}),
        **shaping,
        **(FOR_FREEZING if freezable else {}),
        **FORCED,
    }
    if config.model.path is not None:
        result |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return result


def missing(wanted: Iterable[str], parent: Mapping[str, str]) -> list[str]:
    """Names without a value."""
    return [name for name in wanted if not parent.get(name)]
