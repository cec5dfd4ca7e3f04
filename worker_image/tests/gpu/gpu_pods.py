"""What the tests on GPUs have in common."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from worker_pod import Pod

SHAPE = "0.6b"
ENGINE = {
    "dtype": "bfloat16",
    "loadFormat": "dummy",
    "maxModelLen": 4096,
    "maxNumSeqs": 64,
    "gpuMemoryUtilization": 0.4,  # two workers on one GPU
    "kvCacheMemoryBytes": None,
    "numGpuBlocksOverride": None,
    "enforceEager": False,
    "seed": 0,
}
PROMPT = list(range(100, 132))

NO_NVLINK = "the GPUs cannot reach each other's memory"
"""What an engine's log says if its ranks go through the host's."""

StartPod = Callable[..., Pod]


def only(gpu: int) -> str:
    """Shell: a /dev with one GPU, as a device plugin gives it to a container."""
    return (
        "mkdir /tmp/dev && mount -n -t tmpfs tmpfs /tmp/dev && "
        "cp -a $(ls -d /dev/* | grep -vE '^/dev/(nvidia[0-9]+|shm|pts|mqueue|hugepages|vd.*|fd)$') /tmp/dev/ && "
        f"cp -a /dev/nvidia{gpu} /tmp/dev/ && "
        "mkdir -p /tmp/dev/shm /tmp/dev/pts && ln -sfn /proc/self/fd /tmp/dev/fd && "
        "mount -n --bind /dev/pts /tmp/dev/pts && mount -n --move /dev/shm /tmp/dev/shm && "
        "mount -n --move /tmp/dev /dev && mount -n -o remount,ro /dev"  # or the driver makes the other node
    )


def mounted(directory: Path) -> str:
    """Shell: a directory as a volume of the container, which may hold files that a frozen engine has mapped."""
    return f"mount -n --bind {directory} {directory}"


def compile_cache(directory: Path) -> dict[str, str]:
    """An engine's environment, so that what it compiles is there."""
    return {
        "VLLM_CACHE_ROOT": str(directory / "vllm"),
        "TRITON_CACHE_DIR": str(directory / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(directory / "inductor"),
    }


def machine_settings() -> dict[str, str]:
    """What this machine says about its links, such as that NVLink multicast is off, for engines too."""
    return {name: value for name, value in os.environ.items() if name.startswith(("NCCL_", "NVSHMEM_", "TORCH_SYMM_"))}


def tokens(pod: Pod, prompt: list[int] | None = None, count: int = 24) -> list[int]:
    """A greedy answer as token ids."""
    body = {
        "model": "tiny",
        "prompt": prompt or PROMPT,
        "max_tokens": count,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    status, answer = pod.ask("POST", "/v1/completions", body)
    assert status == 200, answer
    found: list[int] = json.loads(answer)["choices"][0]["token_ids"]
    return found
