"""Real workers in pods, with real CRIU: a prefill pool and a decode pool, whose workers thaw, over one store."""

import itertools
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import GUARD_SECONDS
from shutdown.ours import BUDGET
from vernal_contract import names
from vernal_contract.config import KVTransferConfig
from vernal_worker.kv.keys import block_keys

sys.path.insert(0, str(Path(__file__).parents[1] / "worker"))
from worker_pod import Pod

pytestmark = pytest.mark.integration

BLOCK = 128  # tokens: what vLLM has on a CPU
TOTAL, SHARED = 15 * BLOCK, 11 * BLOCK + 32  # 75 %
ROUNDS = 5
PATIENT = {
    **{f"{name}_timeout_seconds": GUARD_SECONDS for name in ("lookup", "load", "flush")},
    "cooldown_seconds": 0,
}
HELD = "kv-a/hold"
"""In the store: as long as it is there, nothing is saved."""

_draw = random.Random(75)


def tokens(count: int) -> list[int]:
    return _draw.choices(range(4, 512), k=count)


StartPod = Callable[..., Pod]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartPod]:
    """Start a worker whose KV store is the directory `kv` of the test's store, at the same place in each pod."""
    from images.criu import criu_path
    from models.tiny import make_tiny_model

    work = tmp_path_factory.mktemp("pods")
    store, model = work / "store", work / "model"
    store.mkdir()
    make_tiny_model(model)
    pods: list[Pod] = []
    numbers = itertools.count(1)

    def start(kv: str, transfer: KVTransferConfig, policy: str = "Auto") -> Pod:
        (store / kv).mkdir(exist_ok=True)
        name = f"kv-{next(numbers)}"
        pod = Pod(
            name,
            work / f"{name}.log",
            store,
            model,
            criu_path(),
            setup=f"mkdir -p {names.PATH_KV} && mount --bind {names.PATH_STORE}/{kv} {names.PATH_KV}",
            engine_args={"maxModelLen": 2048},
            kv_transfer=transfer,
            checkpoint={"policy": policy},
            drain=BUDGET,
        )
        pods.append(pod)
        return pod

    yield start
    for pod in pods:
        pod.end()


PREFILL = KVTransferConfig(
    connector="FaultyVernalConnector",
    role="kv_producer",
    path=names.PATH_KV,
    options=PATIENT
    | {"threads": 4, "fault": {"kind": "slow_save", "which": "all", "hold": f"{names.PATH_STORE}/{HELD}"}},
)
DECODE = KVTransferConfig(role="kv_consumer", path=names.PATH_KV, options=PATIENT)


@dataclass
class Prefilled:
    """What a prefill worker did before it was told to stop, and how it ended."""

    prompts: list[list[int]]
    answers: list[str]
    saved_before: int
    exit_code: int
    saved_after: int
    log: str


@pytest.fixture(scope="module")
def pools(start: StartPod) -> Iterator[tuple[Pod, Pod]]:
    """The first worker of either pool; cold starts side by side."""
    prefill = start("kv-a", PREFILL, "Disabled")
    prefill.wait_log("engine_start")  # two pods that mount at the same moment disturb each other
    decode = start("kv-a", DECODE)
    prefill.wait_ready()
    state = decode.wait_ready()
    assert state.freeze is not None and state.freeze.outcome == "Published", decode.log()
    decode.end()  # all that follow thaw
    yield prefill, decode


@pytest.fixture(scope="module")
def prefilled(pools: tuple[Pod, Pod]) -> Prefilled:
    pod, _ = pools
    hold = pod.store / HELD
    hold.touch()
    prompts = [tokens(TOTAL) for _ in range(ROUNDS + 2)]
    answers = [complete(pod, prompt) for prompt in prompts]
    before = len(kv_files(pod, "kv-a"))
    pod.signal()
    pod.wait_log("event=engine_stopping")
    hold.unlink()
    code = pod.wait()
    return Prefilled(prompts, answers, before, code, len(kv_files(pod, "kv-a")), pod.log())


@pytest.fixture(scope="module")
def thawed(start: StartPod, prefilled: Prefilled) -> Pod:
    pod = start("kv-a", DECODE)
    assert pod.wait_ready().start_mode == "Restored", pod.log()
    return pod


def complete(pod: Pod, prompt: list[int]) -> str:
    return pod.complete(prompt)  # type: ignore[arg-type]


def first_token_seconds(pod: Pod, prompt: list[int]) -> float:
    start = time.monotonic()
    stream = pod.stream(prompt=prompt, max_tokens=4)
    next(stream.events())
    seconds = time.monotonic() - start
    stream.rest()
    return seconds


def kv_files(pod: Pod, kv: str) -> list[Path]:
    return list((pod.store / kv).glob("*/*/*.kv"))


def counted(pod: Pod, metric: str) -> float:
    """Sum of the metric's samples that begin so."""
    lines = pod.engine_metrics().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vernal_kv_{metric}"))


def test_a_prefill_worker_that_is_told_to_stop_finishes_its_saves(prefilled: Prefilled) -> None:
    expected = len(prefilled.prompts) * TOTAL // BLOCK
    assert (prefilled.saved_before, prefilled.exit_code, prefilled.saved_after) == (0, 0, expected), prefilled.log


def test_a_thawed_decode_worker_loads_and_answers_the_same(
    thawed: Pod, prefilled: Prefilled, capsys: pytest.CaptureFixture[str]
) -> None:
    *prompts, warm = prefilled.prompts[: ROUNDS + 1]
    first_token_seconds(thawed, tokens(TOTAL))  # both kinds of request have been seen once
    first_token_seconds(thawed, warm[:SHARED] + tokens(TOTAL - SHARED))
    without: list[float] = []
    with_store: list[float] = []
    for prompt in prompts:
        without.append(first_token_seconds(thawed, tokens(TOTAL)))
        with_store.append(first_token_seconds(thawed, prompt[:SHARED] + tokens(TOTAL - SHARED)))
    ratio = statistics.median(without) / statistics.median(with_store)
    with capsys.disabled():
        print(
            f"\nthawed worker, {TOTAL} tokens of which 75 % are shared: first token after "
            f"{statistics.median(without) * 1000:.0f} ms without the store, "
            f"{statistics.median(with_store) * 1000:.0f} ms with it, {ratio:.1f} times as fast"
        )
    assert counted(thawed, "loaded_tokens") >= (ROUNDS + 1) * (SHARED - BLOCK)
    assert [complete(thawed, prompt) for prompt in prompts] == prefilled.answers[:ROUNDS]


def test_a_thawed_worker_computes_what_storage_has_damaged(thawed: Pod, prefilled: Prefilled) -> None:
    """A file of a prompt that this worker has not seen yet."""
    name = f"{block_keys(prefilled.prompts[-1], BLOCK)[3].hex()}.kv"
    (block,) = (path for path in kv_files(thawed, "kv-a") if path.name == name)
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 1
    block.write_bytes(content)
    assert complete(thawed, prefilled.prompts[-1]) == prefilled.answers[-1]
    assert counted(thawed, 'load_failures_total{engine="0",kind="corrupt"') == 1
    assert counted(thawed, "recomputed_tokens") > 0
    assert not block.exists(), "a bad block stayed in the store"


def test_a_thawed_worker_uses_the_store_of_its_own_pod(start: StartPod, thawed: Pod, prefilled: Prefilled) -> None:
    pod = start("kv-b", DECODE)
    assert pod.wait_ready().start_mode == "Restored", pod.log()
    assert complete(pod, prefilled.prompts[0]) == prefilled.answers[0]
    assert counted(pod, "loaded_tokens") == 0, "it loaded from the store of the pod that was frozen"
    shutil.copytree(pod.store / "kv-a", pod.store / "kv-b", dirs_exist_ok=True)
    assert complete(pod, prefilled.prompts[1]) == prefilled.answers[1]
    assert counted(pod, "loaded_tokens") > 0
