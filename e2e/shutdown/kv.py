"""KV transfers at the end: blocks that are still being saved when SIGTERM comes, on storage that holds them back."""

import random
import time
from pathlib import Path
from typing import Any

from patience import GUARD_SECONDS
from vernal_contract import names
from worker_pod import Pod

from shutdown import alone as plain
from shutdown.ours import CLOSES_SOON, HUNG
from shutdown.promises import Findings
from shutdown.workers import Workers

BLOCK = 128  # tokens: what vLLM has on a CPU
BLOCKS = 6
HELD_SECONDS = 6.0  # longer than vLLM gives its workers (5 s)
KV = "kv"
HOLD = f"{KV}/hold"
"""In the store: as long as it is there, nothing is saved."""
_SETUP = f"mkdir -p {names.PATH_KV} && mount --bind {names.PATH_STORE}/{KV} {names.PATH_KV}"
_CONNECTOR = {
    "kv_connector": "FaultyVernalConnector",
    "kv_connector_module_path": "vernal_worker.kv.faulty",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
    "kv_connector_extra_config": {
        "shared_storage_path": names.PATH_KV,
        "fault": {"kind": "slow_save", "which": "all", "hold": f"{names.PATH_STORE}/{HOLD}"},
        "flush_timeout_seconds": GUARD_SECONDS,
    },
}


def ours(made: Workers, found: Findings) -> None:
    """Enough time for the transfers; then a grace period that is too short for them."""
    store = _store(made, "kv-ours")
    arguments = {"engine_args": {"kvTransferConfig": _CONNECTOR}, "setup": _SETUP}
    made.make_checkpoint(store, **arguments)
    pod = made.thawed(store, drain=CLOSES_SOON, **arguments)
    before = _saved(store)
    _ask(pod, store)
    pod.signal()
    began = time.monotonic()
    pod.wait_log("event=engine_stopping")
    _release(store)
    code = pod.wait()
    saved = _saved(store) - before
    text = f"{saved} of {BLOCKS} blocks under way are on the store, exit {code} after {time.monotonic() - began:.1f} s"
    found.add("kv", code == 0 and saved == BLOCKS, text)
    pod = made.thawed(store, drain={"propagation_seconds": 0.2, "grace_period_seconds": 10.0}, **arguments)
    _ask(pod, store)
    pod.signal()
    began = time.monotonic()
    code = pod.wait()
    text = f"with 10 s of grace, too few: exit {code} after {time.monotonic() - began:.1f} s"
    found.add("kv", code in HUNG, text)


def alone(made: Workers, found: Findings) -> None:
    """The same connector under `vllm serve`."""
    store = _store(made, "kv-alone")
    server = plain.Server(
        made, "alone-kv", "--shutdown-timeout", "60", setup=_SETUP, extra={"kvTransferConfig": _CONNECTOR}, store=store
    )
    server.wait_healthy()
    _ask(server, store)
    server.signal()
    _release(store)
    seconds, code = server.ended()
    saved = _saved(store)
    text = f"exit {code} after {seconds:.1f} s" if code is not None else f"no exit within {seconds:.0f} s"
    found.add("kv", code == 0 and saved == BLOCKS, f"{saved} of {BLOCKS} blocks under way are on the store, {text}")


def _store(made: Workers, name: str) -> Path:
    store = made.work / name
    (store / KV).mkdir(parents=True, exist_ok=True)
    return store


def _saved(store: Path) -> int:
    return len(list((store / KV).glob("*/*/*.kv")))


def _release(store: Path) -> None:
    time.sleep(HELD_SECONDS)
    (store / HOLD).unlink()


def _ask(pod: Pod, store: Path) -> None:
    """A request whose blocks are not saved before `_release`."""
    (store / HOLD).touch()
    prompt: Any = random.choices(range(4, 512), k=BLOCK * BLOCKS)
    pod.complete(prompt, max_tokens=1)
