"""Whatever makes a thaw impossible on a GPU that is full of the engine's own memory: the same container serves, cold.

One creator, whose artifact is damaged in one way after the other. Nothing that a failed thaw holds on the GPU may be
left when vLLM starts there: it takes 85 % of it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from gpu_pods import StartPod, tokens
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint.cuda.client import OnGpu
from vernal_worker.checkpoint.process import Frozen
from vernal_worker.store import manifest
from worker_pod import Pod

ENGINE: dict[str, Any] = {"gpuMemoryUtilization": 0.85, "enforceEager": True}
"""Without CUDA graphs, so that a cold start takes a third of the time."""

SIZES = {"verify": "Sizes"}
"""Lets damage get past the digests, to the stages behind them."""

ALIVE, STOPPED = bytes.fromhex("08011000180020"), bytes.fromhex("08031000180020")
"""How a task_core_entry of CRIU begins (images/core.proto): task_state 1 or 3, exit_code 0, personality 0."""

OCCUPY = """
import sys
from vernal_worker.checkpoint.cuda.driver import call
call("cuInit", 0)
call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", 0)))
address = call("cuMemAlloc", int(sys.argv[1]))
print("occupied", flush=True)
sys.stdin.read()
"""


@contextmanager
def occupied(size: int) -> Iterator[Callable[[], None]]:
    """Another process holds so many bytes of the GPU, until the function is called."""
    process = subprocess.Popen(
        [sys.executable, "-c", OCCUPY, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def release() -> None:
        process.kill()
        process.wait()

    try:
        assert process.stdout is not None and process.stdout.readline() == "occupied\n"
        yield release
    finally:
        release()


@pytest.fixture(scope="module")
def frozen(work: Path, start_pod: StartPod) -> tuple[Path, list[int]]:
    """A store, and the creator's answer. The creator is gone: it had the GPU for itself."""
    store = work / "store-fallback"
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    pod = start_pod(store, engine_args=ENGINE)
    state = pod.wait_ready()
    assert state.freeze is not None and state.freeze.outcome == "Published", pod.log()
    answer = tokens(pod)
    pod.end()
    return store, answer


@pytest.fixture
def copy(frozen: tuple[Path, list[int]], work: Path) -> Iterator[Path]:
    """The store, whose files are hard links: to be replaced, not written to."""
    path = work / "store-copy"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(frozen[0], path, symlinks=True, copy_function=lambda old, new: Path(new).hardlink_to(old))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(start_pod: StartPod) -> Iterator[StartPod]:
    """Workers that are gone at the end of the test, however it ends: the next one needs the whole GPU."""
    pods: list[Pod] = []

    def begin(*arguments: Any, **options: Any) -> Pod:
        pods.append(start_pod(*arguments, **options))
        return pods[-1]

    yield begin
    for pod in pods:
        pod.end()


def artifact(store: Path) -> Path:
    (current,) = store.glob("artifacts/*/*/current")
    return current.resolve()


def rewrite(path: Path, data: bytes) -> None:
    """With as many bytes as before: sizes are always looked at."""
    assert len(data) == path.stat().st_size, (path, len(data))
    path.unlink()
    path.write_bytes(data)


def vouch(artifact: Path, name: str) -> None:
    """As if the creator had written the file so: what a thaw acts upon is verified with any `verify`."""
    found = manifest.decode((artifact / manifest.NAME).read_bytes(), artifact.name)
    digest = blake3((artifact / name).read_bytes()).hexdigest()
    files = (msgspec.structs.replace(each, blake3=(digest,)) if each.path == name else each for each in found.files)
    rewrite(artifact / manifest.NAME, manifest.encode(msgspec.structs.replace(found, files=tuple(files))))


def flip_a_bit_of_the_weights(artifact: Path) -> None:
    (weights,) = artifact.glob("weights/*")
    data = bytearray(weights.read_bytes())
    data[len(data) // 3] ^= 16
    rewrite(weights, bytes(data))


def remove_the_weights(artifact: Path) -> None:
    (weights,) = artifact.glob("weights/*")
    weights.unlink()


def on_gpu(artifact: Path, **changes: Any) -> None:
    """Change what is known of the GPU side. Numbers keep their digits."""
    path = artifact / "gpu.json"
    on = msgspec.json.decode(path.read_bytes(), type=OnGpu)
    rewrite(path, msgspec.json.encode(msgspec.structs.replace(on, **changes)).ljust(path.stat().st_size))
    vouch(artifact, path.name)


def restore_a_process_without_cuda(artifact: Path) -> None:
    """The driver has nothing to restore in the tree's root, and says so."""
    on = msgspec.json.decode((artifact / "gpu.json").read_bytes(), type=OnGpu)
    tree = msgspec.json.decode((artifact / "process/process.json").read_bytes(), type=Frozen)
    on_gpu(artifact, pids=(*on.pids[:-1], tree.root))


def seem_small(artifact: Path) -> None:
    """So that the driver, and not a look at the GPU before, finds it too full."""
    on_gpu(artifact, bytes=(1 << 30,))


def stop_the_engine(artifact: Path) -> None:
    """Its main process comes up as if somebody had sent it SIGSTOP, and answers neither the driver nor us."""
    _, main, *_ = sorted(msgspec.json.decode((artifact / "process/process.json").read_bytes(), type=Frozen).pids)
    path = artifact / f"process/criu/core-{main}.img"
    rewrite(path, path.read_bytes().replace(ALIVE, STOPPED, 1))


def other_answers(artifact: Path) -> None:
    path = artifact / "oracle.json"
    oracle = json.loads(path.read_bytes())
    oracle["answers"][0][-1] ^= 1
    rewrite(path, json.dumps(oracle, separators=(",", ":")).encode())


@dataclass(frozen=True)
class Case:
    damage: Callable[[Path], None]
    failures: tuple[tuple[str, Reason], ...]  # stage and reason; one of them
    checkpoint: dict[str, Any] = field(default_factory=dict)


CASES = {
    "a flipped bit": Case(flip_a_bit_of_the_weights, (("weights", Reason.DIGEST_MISMATCH),)),
    "a missing file": Case(remove_the_weights, (("verify", Reason.FILE_MISSING),)),
    "an error of the driver": Case(restore_a_process_without_cuda, (("cuda", Reason.CUDA_RESTORE_FAILED),), SIZES),
    "other answers": Case(other_answers, (("canary", Reason.CANARY_MISMATCH),), SIZES),
    "a time-out": Case(
        stop_the_engine,
        # Whether the driver needs the process to be awake is the driver's business.
        (("cuda", Reason.THAW_TIMEOUT), ("weights", Reason.ENGINE_UNRESPONSIVE)),
        {**SIZES, "thaw_timeout_seconds": 15.0},
    ),
}


def serves_cold(pod: Pod, frozen: tuple[Path, list[int]]) -> tuple[str, Reason]:
    """Returns stage and reason of the failed thaw."""
    state = pod.wait_ready()
    (failure,) = state.restore_failures
    assert (state.start_mode, state.start_reason) == ("Cold", failure.reason), pod.log()
    assert state.waiting_for == ""
    assert tokens(pod) == frozen[1]
    print(failure.reason, "timings", state.timings)
    return failure.stage, Reason(failure.reason)


@pytest.mark.parametrize("name", CASES)
def test_the_same_container_serves_cold(name: str, frozen: tuple[Path, list[int]], copy: Path, start: StartPod) -> None:
    case = CASES[name]
    case.damage(artifact(copy))
    pod = start(copy, engine_args=ENGINE, checkpoint={"policy": "Auto", **case.checkpoint})
    assert serves_cold(pod, frozen) in case.failures


def test_a_thaw_that_runs_out_of_gpu_memory(frozen: tuple[Path, list[int]], copy: Path, start: StartPod) -> None:
    """The driver refuses in the middle of it; the cold start waits until there is room, and says what for."""
    seem_small(artifact(copy))
    with occupied(40 << 30) as release:
        checkpoint = {"policy": "Auto", **SIZES, "gpu_memory_wait_seconds": 300.0}
        pod = start(copy, engine_args=ENGINE, checkpoint=checkpoint)
        pod.wait_log("event=gpu_memory_wait")
        assert "bytes wanted" in pod.state().waiting_for, pod.log()
        release()
        assert serves_cold(pod, frozen)[1] is Reason.GPU_MEMORY_INSUFFICIENT
    assert not list(copy.glob("artifacts/*/*/failures/*")), "it counts nothing against the artifact"


def test_a_full_gpu_is_waited_for_before_anything_is_on_it(
    frozen: tuple[Path, list[int]], copy: Path, start: StartPod
) -> None:
    with occupied(40 << 30) as release:
        pod = start(copy, engine_args=ENGINE, checkpoint={"policy": "Auto", "gpu_memory_wait_seconds": 300.0})
        pod.wait_log("event=gpu_memory_wait")
        assert "bytes wanted" in pod.state().waiting_for, pod.log()
        release()
        state = pod.wait_ready()
    assert state.start_mode == "Restored", pod.log()
    assert tokens(pod) == frozen[1]


@pytest.mark.parametrize(("policy", "code"), [("Auto", 10), ("Required", 11)])
def test_a_gpu_that_stays_full(
    policy: str, code: int, frozen: tuple[Path, list[int]], copy: Path, start: StartPod
) -> None:
    with occupied(40 << 30):
        pod = start(copy, engine_args=ENGINE, checkpoint={"policy": policy, "gpu_memory_wait_seconds": 0.0})
        assert pod.wait() == code, pod.log()
    last = pod.log().splitlines()[-1]
    assert "reason=GpuMemoryInsufficient" in last and "bytes wanted" in last and "next_step=" in last, last
    assert "event=engine_start" not in pod.log()
    assert not list(copy.glob("artifacts/*/*/failures/*")), "it counts nothing against the artifact"


def test_a_cold_start_waits_for_a_full_gpu_too(work: Path, start: StartPod) -> None:
    store = work / "store-none"
    store.mkdir(exist_ok=True)
    with occupied(40 << 30):
        pod = start(store, engine_args=ENGINE, checkpoint={"policy": "Auto", "gpu_memory_wait_seconds": 0.0})
        assert pod.wait() == 10, pod.log()
    assert "reason=GpuMemoryInsufficient" in pod.log().splitlines()[-1], pod.log()
    assert "event=engine_start" not in pod.log()
