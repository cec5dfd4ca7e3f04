"""Real workers in pods, with real CRIU: a worker that was thawed uses the shared KV store of its own pod."""

import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from thaw_contract import names

sys.path.insert(0, str(Path(__file__).parents[1] / "worker"))
from worker_pod import Pod

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

KV_PATH = "/var/lib/thaw/kv"
BLOCK = 128  # tokens: what vLLM has on a CPU
TOTAL, SHARED = 15 * BLOCK, 11 * BLOCK + 32  # 75 %
ROUNDS = 6

_draw = random.Random(75)


def tokens(count: int) -> list[int]:
    return _draw.choices(range(4, 512), k=count)


StartPod = Callable[[str], Pod]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartPod]:
    """Start a worker whose KV store is the directory of that name in `store`, mounted at the same place in each pod."""
    from images.criu import criu_path
    from models.tiny import make_tiny_model

    work = tmp_path_factory.mktemp("pods")
    store, model = work / "store", work / "model"
    store.mkdir()
    make_tiny_model(model)
    pods: list[Pod] = []
    numbers = itertools.count(1)
    connector = {
        "kv_connector": "ThawSharedStorageConnector",
        "kv_connector_module_path": "thaw_worker.kv.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"shared_storage_path": KV_PATH, "lookup_timeout_seconds": 5},
    }

    def start(kv: str) -> Pod:
        (store / kv).mkdir(exist_ok=True)
        name = f"kv-{next(numbers)}"
        pod = Pod(
            name,
            work / f"{name}.log",
            store,
            model,
            criu_path(),
            setup=f"mkdir -p {KV_PATH} && mount --bind {names.PATH_STORE}/{kv} {KV_PATH}",
            engine_args={"maxModelLen": 2048, "kvTransferConfig": connector},
        )
        pods.append(pod)
        return pod

    yield start
    for pod in pods:
        pod.end()


def first_token_seconds(pod: Pod, prompt: list[int]) -> float:
    start = time.monotonic()
    stream = pod.stream(prompt=prompt, max_tokens=4)
    next(stream.events())
    seconds = time.monotonic() - start
    stream.rest()
    return seconds


def kv_files(pod: Pod, kv: str) -> int:
    return len(list((pod.store / kv).glob("*/*/*.kv")))


def test_thawed_workers_share_prefixes_and_use_their_own_pods_store(
    start: StartPod, capsys: pytest.CaptureFixture[str]
) -> None:
    creator = start("kv-a")
    state = creator.wait_ready()
    assert state.freeze is not None and state.freeze.outcome == "Published", creator.log()
    prefixes = [tokens(SHARED) for _ in range(ROUNDS + 1)]
    asked = [prefix + tokens(TOTAL - SHARED) for prefix in prefixes]
    answers = [creator.complete(prompt) for prompt in asked]  # type: ignore[arg-type]
    assert kv_files(creator, "kv-a") > 0

    thawed = start("kv-a")
    assert thawed.wait_ready().start_mode == "Restored", thawed.log()
    first_token_seconds(thawed, tokens(TOTAL))  # both kinds of request have been seen once
    first_token_seconds(thawed, prefixes.pop() + tokens(TOTAL - SHARED))
    without: list[float] = []
    with_store: list[float] = []
    for prefix in prefixes:
        without.append(first_token_seconds(thawed, tokens(TOTAL)))
        with_store.append(first_token_seconds(thawed, prefix + tokens(TOTAL - SHARED)))
    ratio = statistics.median(without) / statistics.median(with_store)
    with capsys.disabled():
        print(
            f"\nthawed worker, {TOTAL} tokens of which 75 % are shared: first token after "
            f"{statistics.median(without) * 1000:.0f} ms without the store, "
            f"{statistics.median(with_store) * 1000:.0f} ms with it, {ratio:.1f} times as fast"
        )
    assert [thawed.complete(prompt) for prompt in asked] == answers  # type: ignore[arg-type]
    loaded = thawed.admin("/metrics")[1].decode()
    assert "thaw_kv_loaded_tokens_total" in loaded
    assert ratio > 1.2

    elsewhere = start("kv-b")
    assert elsewhere.wait_ready().start_mode == "Restored", elsewhere.log()
    before = kv_files(creator, "kv-a")
    prompt = tokens(TOTAL)
    elsewhere.complete(prompt)  # type: ignore[arg-type]
    deadline = time.monotonic() + 10
    while kv_files(elsewhere, "kv-b") < TOTAL // BLOCK and time.monotonic() < deadline:
        time.sleep(0.1)
    assert kv_files(elsewhere, "kv-b") == TOTAL // BLOCK, elsewhere.log()
    assert kv_files(creator, "kv-a") == before, "it wrote to the store of the pod that was frozen"
