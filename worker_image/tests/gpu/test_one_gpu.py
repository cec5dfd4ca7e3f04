"""One GPU: what is outside the image, what a thawed worker answers, and what it does about wrong bytes."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from gpu_pods import PROMPT, StartPod, tokens
from patience import until
from vernal_contract import names
from vernal_worker.checkpoint.cuda.client import OnGpu
from vernal_worker.engine import warm
from worker_pod import HOLD_CRIU, Pod


@pytest.fixture(scope="module")
def creator(start_pod: StartPod, store: Path) -> Iterator[Pod]:
    pod = start_pod(store)
    state = pod.wait_ready()
    assert state.freeze is not None and state.freeze.outcome == "Published", pod.log()
    yield pod
    pod.end()


def artifact(store: Path) -> Path:
    (current,) = store.glob("artifacts/*/*/current")
    return current.resolve()


def test_weights_are_beside_the_image_and_kv_cache_nowhere(creator: Pod, store: Path) -> None:
    on = msgspec.json.decode((artifact(store) / "gpu.json").read_bytes(), type=OnGpu)
    assert on.memory is not None
    (rank,) = on.memory.ranks
    (file,) = rank.files
    assert (artifact(store) / "weights" / file).stat().st_size == rank.bytes > 1_000_000_000
    assert sum(segment.size for segment in rank.segments) > 10 * rank.bytes, "the KV cache is not known"
    images = sum(path.stat().st_size for path in artifact(store).glob("process/criu/*"))
    assert images < 3 << 30, "the KV cache or the weights are in the image"
    (blob,) = (store / "blobs").iterdir()
    assert blob.samefile(artifact(store) / "weights" / file)


def test_the_creator_goes_on_and_a_thawed_worker_answers_alike(creator: Pod, store: Path, start_pod: StartPod) -> None:
    prompts = [[7 * number + position for position in range(40)] for number in range(4)]
    expected = [tokens(creator, prompt) for prompt in prompts]
    thawed = start_pod(store)  # beside the creator, on the same GPU
    assert thawed.wait_ready().start_mode == "Restored", thawed.log()
    assert [tokens(thawed, prompt) for prompt in prompts] == expected
    print("timings", thawed.state().timings)
    thawed.end()


def test_a_flipped_bit_of_the_weights_is_found_before_ready(
    creator: Pod, store: Path, start_pod: StartPod, work: Path
) -> None:
    copy = work / "store-flipped"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store, copy, symlinks=True)
    (weights,) = artifact(copy).glob("weights/*")
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 3)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 16]))
    pod = start_pod(copy, checkpoint={"policy": "Required"})
    assert pod.wait() == 11, pod.log()
    assert "reason=DigestMismatch" in pod.log() and "stage=weights" in pod.log(), pod.log()
    assert "phase=Ready" not in pod.log()
    shutil.rmtree(copy)


def test_missing_weights_are_found_before_anything_starts(
    creator: Pod, store: Path, start_pod: StartPod, work: Path
) -> None:
    copy = work / "store-missing"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store, copy, symlinks=True)
    (weights,) = artifact(copy).glob("weights/*")
    weights.unlink()
    pod = start_pod(copy, checkpoint={"policy": "Required"})
    assert pod.wait() == 11, pod.log()
    assert "reason=FileMissing" in pod.log(), pod.log()
    shutil.rmtree(copy)


def test_a_stop_during_a_thaw_leaves_nothing_behind(creator: Pod, store: Path, start_pod: StartPod) -> None:
    pod = start_pod(store, setup=HOLD_CRIU)
    pod.wait_criu()
    pod.signal()
    assert pod.wait() == 0, pod.log()
    again = start_pod(store)
    assert again.wait_ready().start_mode == "Restored", again.log()
    again.end()


def test_a_burst_and_a_client_that_does_not_read(creator: Pod, store: Path, start_pod: StartPod) -> None:
    """The front door of a thawed worker on a GPU, whose processes are other ones than on a CPU."""
    drain = {"propagation_seconds": 0.5, "timeout_seconds": 1.0}
    pod = start_pod(store, drain=drain)
    assert pod.wait_ready().start_mode == "Restored", pod.log()
    expected = tokens(pod)
    idle = [pod.connect(names.PORT_SERVING) for _ in range(1100)]
    assert pod.admin("/readyz")[0] == 200 and tokens(pod) == expected
    deaf = pod.http()
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True, "logprobs": 20}
    deaf.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    until("a request in flight", lambda: pod.in_flight() == 1, more=pod.log)
    pod.signal()
    assert pod.wait() == 0, pod.log()
    for connection in idle:
        connection.close()


def test_a_start_without_memory_ends_with_vllms_reason(store: Path, start_pod: StartPod) -> None:
    arguments = {"numGpuBlocksOverride": 4, "maxModelLen": 4096}
    pod = start_pod(store, engine_args=arguments, checkpoint={"policy": "Disabled"})
    assert pod.wait() == 10, pod.log()
    assert "ValueError: To serve at least one request" in pod.log().splitlines()[-1]


def test_nothing_odd_is_slow_after_a_thaw(creator: Pod, store: Path, start_pod: StartPod) -> None:
    """Prints the first and the second request of each kind."""
    pod = start_pod(store)
    assert pod.wait_ready().start_mode == "Restored", pod.log()
    for kind, (path, asked) in warm.requests("tiny", []).items():
        times, status = [], 0
        for _ in range(2):
            began = time.monotonic()
            status, answer = pod.ask("POST", path, asked)
            times.append(time.monotonic() - began)
            assert status < 500, (kind, answer)
        print(f"{kind}: HTTP {status}, {1000 * times[0]:.0f} ms, {1000 * times[1]:.0f} ms")
    pod.end()
