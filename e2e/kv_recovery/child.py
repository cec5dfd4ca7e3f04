"""Starts the child engine and speaks with it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from patience import GUARD_SECONDS
from vernal_worker.kv.faults import Fault

from kv_recovery.cases import Run

_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "PYTHONPATH": os.pathsep.join(str(_ROOT / part) for part in ("e2e", "worker_image", "contract")),
}


class EngineFailedError(Exception):
    """The engine stopped; the message names its log."""


class Child:
    """An engine in a process of its own, for a `with` statement.

    Args:
        options: arguments of vllm.LLM.
        connector: vLLM's kv_transfer_config; None for an engine without.
        log: file that gets everything vLLM says.
        environment: more environment variables.
    """

    def __init__(
        self,
        options: dict[str, Any],
        connector: dict[str, Any] | None,
        log: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._arguments = json.dumps({"engine": options, "connector": connector})
        self._log = log
        existing = os.environ.get("PYTHONPATH")
        self._environment = {**os.environ, **_ENVIRONMENT, **(environment or {})}
        if existing:
            self._environment["PYTHONPATH"] += os.pathsep + existing
        self.block_tokens = 0
        self.start_seconds = 0.0

    def __enter__(self) -> "Child":
        start = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kv_recovery.engine", self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                text=True,
            )
        self.block_tokens = self._answer()["block_tokens"]
        self.start_seconds = time.monotonic() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        if kind is not None:
            self._process.kill()
        self._process.stdin.close()
        try:
            self._process.wait(GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise EngineFailedError(f"the engine did not exit within {GUARD_SECONDS:.0f} s; see {self._log}") from None

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        *,
        flush: bool = True,
        beside: Sequence[Sequence[int]] = (),
    ) -> Run:
        """Generate greedily for all prompts at once, with an empty local prefix cache, as after a thaw.

        Args:
            flush: return when all that is to be saved is written, which does not count in `Run.seconds`.
            beside: prompts of requests that decode meanwhile; the others then run one after the other.
        """
        batch = {"prompts": prompts, "max_tokens": max_tokens, "reset": True, "flush": flush, "beside": beside}
        return Run.of(self._ask(batch))

    def lifecycle(self, *names: str) -> None:
        """Call functions of `vernal_worker.kv.lifecycle` in the engine's process."""
        self._ask({"lifecycle": names})

    def _ask(self, batch: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(batch) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text(errors="replace").strip().splitlines()[-15:]
            raise EngineFailedError("\n".join([*last, f"the engine stopped; its log is {self._log}"]))
        answer: dict[str, Any] = json.loads(line)
        return answer


def start_together(stack: ExitStack, children: Sequence[Child]) -> None:
    """Enter all of `children` at the same time, for machines with enough cores, and leave them with `stack`.

    Raises:
        EngineFailedError: one did not start; those that did end with `stack`.
    """
    with ThreadPoolExecutor(len(children)) as pool:
        starts = [pool.submit(child.__enter__) for child in children]
    for child, start in zip(children, starts, strict=True):
        if start.exception() is None:
            stack.push(child)
    for start in starts:
        start.result()


def connector(store: Path, *, role: str = "kv_both", policy: str = "recompute", **extra: Any) -> dict[str, Any]:
    """vLLM's kv_transfer_config for the connector; with `fault_file` for its fault-injecting twin."""
    twin = "fault_file" in extra
    return {
        "kv_connector": "FaultyVernalConnector" if twin else "VernalSharedStorageConnector",
        "kv_connector_module_path": "vernal_worker.kv.faulty" if twin else "vernal_worker.kv.connector",
        "kv_role": role,
        "kv_load_failure_policy": policy,
        "kv_connector_extra_config": {"shared_storage_path": str(store), **extra},
    }


def write_fault(path: Path, fault: Fault) -> None:
    path.write_bytes(msgspec.json.encode(fault))
