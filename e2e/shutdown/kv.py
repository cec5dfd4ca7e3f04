"""KV transfers at the end: blocks that are still being saved when SIGTERM comes, on storage that is slow."""

import random
import time
from pathlib import Path
from typing import Any

from vernal_contract import names
from worker_pod import Pod

from shutdown import alone as plain
from shutdown.promises import Findings
from shutdown.workers import Workers

BLOCK = 128  # tokens: what vLLM has on a CPU
BLOCKS = 6
SAVE_SECONDS = 12.0  # of each block; more than vLLM gives its workers (5 s)
KV = "kv"
_SETUP = f"mkdir -p {names.PATH_KV} && mount --bind {names.PATH_STORE}/{KV} {names.PATH_KV}"
_CONNECTOR = {
    "kv_connector": "FaultyVernalConnector",
    "kv_connector_module_path": "vernal_worker.kv.faulty",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
    "kv_connector_extra_config": {
        "shared_storage_path": names.PATH_KV,
        "fault": {"kind": "slow_save", "which": "all", "delay_seconds": SAVE_SECONDS},
    },
}


def ours(made: Workers, found: Findings) -> None:
    """Enough time for the transfers; then a grace period that is too short for them."""
    store = _store(made, "kv-ours")
    arguments = {"engine_args": {"kvTransferConfig": _CONNECTOR}, "setup": _SETUP}
    made.make_checkpoint(store, **arguments)
    pod = made.thawed(store, drain={"propagation_seconds": 0.2, "grace_period_seconds": 60.0}, **arguments)
    before = _saved(store)
    _ask(pod)
    pod.signal()
    began = time.monotonic()
    code = pod.wait()
    saved = _saved(store) - before
    text = f"{saved} of {BLOCKS} blocks under way are on the store, exit {code} after {time.monotonic() - began:.1f} s"
    found.add("kv", code == 0 and saved == BLOCKS, text)
    pod = made.thawed(store, drain={"propagation_seconds": 0.2, "grace_period_seconds": 10.0}, **arguments)
    _ask(pod)
    pod.signal()
    began = time.monotonic()
    code = pod.wait()
    seconds = time.monotonic() - began
    found.add("kv", code in (0, 14) and seconds < 10, f"with 10 s of grace, too few: exit {code} after {seconds:.1f} s")


def alone(made: Workers, found: Findings) -> None:
    """The same connector under `vllm serve`."""
    store = _store(made, "kv-alone")
    server = plain.Server(
        made, "alone-kv", "--shutdown-timeout", "60", setup=_SETUP, extra={"kvTransferConfig": _CONNECTOR}, store=store
    )
    server.wait_healthy()
    _ask(server)
    server.signal()
    seconds, code = server.ended(60)
    saved = _saved(store)
    text = f"exit {code} after {seconds:.1f} s" if code is not None else f"no exit within {seconds:.0f} s"
    found.add("kv", code == 0 and saved == BLOCKS, f"{saved} of {BLOCKS} blocks under way are on the store, {text}")


def _store(made: Workers, name: str) -> Path:
    store = made.work / name
    (store / KV).mkdir(parents=True, exist_ok=True)
    return store


def _saved(store: Path) -> int:
    return len(list((store / KV).glob("*/*/*.kv")))


def _ask(pod: Pod) -> None:
    prompt: Any = random.choices(range(4, 512), k=BLOCK * BLOCKS)
    pod.complete(prompt, max_tokens=1)
