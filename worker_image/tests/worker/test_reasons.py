"""Whatever makes a thaw impossible: the worker starts cold, and says the same word in `/state`, log and metrics."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harm import BIG_FILE, flip_a_bit
from patience import GUARD_SECONDS, until
from vernal_contract.config import ObjectStoreConfig
from vernal_contract.identity import digest
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_contract.state import StartMode
from vernal_worker.store import manifest
from vernal_worker.store.artifact import load
from vernal_worker.store.store import Store
from worker_pod import HOLD_CRIU, Pod

StartPod = Callable[..., Pod]
SIZES = {"verify": "Sizes"}
"""Lets damage get past the digests, to the stages behind them."""


def linked_copy(store: Path, copy: Path) -> Path:
    """A copy whose files are hard links: to be replaced, not written to. Returns the artifact's directory."""
    shutil.copytree(store, copy, symlinks=True, copy_function=os.link)
    (current,) = copy.glob("artifacts/*/*/current")
    return current.resolve()


def rewrite(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.unlink()
    path.write_bytes(data)


def nothing(artifact: Path) -> None:
    """The artifact is as it should be."""


def no_store(artifact: Path) -> None:
    shutil.rmtree(artifact.parents[2])


def remove(name: str) -> Callable[[Path], None]:
    return lambda artifact: (artifact / name).unlink()


def change(name: str, how: Callable[[bytearray], None]) -> Callable[[Path], None]:
    return lambda artifact: rewrite(artifact / name, how)


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


def blank(data: bytearray) -> None:
    data[:16] = bytes(16)


def from_the_future(artifact: Path) -> None:
    found = msgspec.structs.replace(load(artifact).manifest, format_version=99)
    (artifact / "manifest.json").unlink()
    (artifact / "manifest.json").write_bytes(manifest.encode(found))


def of_another_host(artifact: Path) -> None:
    found = load(artifact).manifest
    host = msgspec.structs.replace(found.host, kernel="2.6")
    other = msgspec.structs.replace(found, host=host, host_tuple=digest(host))
    (artifact / "manifest.json").unlink()
    (artifact / "manifest.json").write_bytes(manifest.encode(other))
    artifact.parent.rename(artifact.parent.with_name(other.host_tuple[:16]))


def failed_before(artifact: Path) -> None:
    found = load(artifact).manifest
    Store(artifact.parents[3]).record_failure(
        found.identity_inputs,
        found.host,
        found.generation,
        stage="verify",
        reason=Reason.DIGEST_MISMATCH,
        message="planted",
        worker="pod-0",
    )


ALIVE, STOPPED = bytes.fromhex("08011000180020"), bytes.fromhex("08031000180020")
"""How a task_core_entry of CRIU begins (images/core.proto): task_state 1 or 3, exit_code 0, personality 0."""


def stopped(artifact: Path) -> None:
    """The engine's main process comes up as if somebody had sent it SIGSTOP: it is there and does nothing."""

    def stop(data: bytearray) -> None:
        at = data.index(ALIVE)
        data[at : at + len(ALIVE)] = STOPPED

    _, main, *_ = sorted(json.loads((artifact / "process/process.json").read_bytes())["pids"])
    rewrite(artifact / f"process/criu/core-{main}.img", stop)


def other_answers(artifact: Path) -> None:
    path = artifact / "oracle.json"
    oracle = json.loads(path.read_bytes())
    oracle["answers"][0][-1] ^= 1
    text = json.dumps(oracle, separators=(",", ":")).encode()
    path.unlink()
    path.write_bytes(text)


@dataclass(frozen=True)
class Case:
    """How a thaw is made impossible. `stage`: of the failed thaw; None if none was tried. `times`: what to give it as
    `thaw_timeout_seconds`, one after the other, until it is enough to come to that stage on this machine."""

    damage: Callable[[Path], None] = nothing
    stage: str | None = None
    setup: str = ""
    checkpoint: dict[str, Any] = field(default_factory=dict)
    times: tuple[float, ...] = (GUARD_SECONDS,)


NOWHERE = ObjectStoreConfig(url="s3://models", endpoint="http://127.0.0.1:9", region="r")
KEYS = "export VERNAL_OBJECT_STORE_AWS_ACCESS_KEY_ID=k VERNAL_OBJECT_STORE_AWS_SECRET_ACCESS_KEY=s"

RENEW = "export VERNAL_RENEW=$(basename $(readlink /var/lib/vernal/store/artifacts/*/*/current))"
"""The generation that is current is to be replaced."""

CASES: dict[Reason, Case] = {
    Reason.POLICY_DISABLED: Case(checkpoint={"policy": "Disabled"}),
    Reason.HOST_UNSUPPORTED: Case(setup="export VERNAL_CRIU=/nonexistent/criu"),
    Reason.NO_ARTIFACT: Case(no_store),
    Reason.QUARANTINED: Case(failed_before, checkpoint={"restore_attempts": 1}),
    Reason.RENEWAL_ASKED: Case(setup=RENEW),
    Reason.HOST_MISMATCH: Case(of_another_host),
    Reason.MANIFEST_MISSING: Case(remove("manifest.json"), "find"),
    Reason.MANIFEST_INVALID: Case(change("manifest.json", cut), "find"),
    Reason.FORMAT_UNSUPPORTED: Case(from_the_future, "find"),
    Reason.FILE_MISSING: Case(remove("process/files.bin"), "verify"),
    Reason.FILE_SIZE_MISMATCH: Case(change("process/criu/pstree.img", cut), "verify"),
    Reason.DIGEST_MISMATCH: Case(change(BIG_FILE, flip_a_bit), "verify"),
    Reason.STORE_UNAVAILABLE: Case(checkpoint={"store_path": "/nonexistent"}),
    Reason.OBJECT_STORE_UNAVAILABLE: Case(no_store, checkpoint={"object_store": NOWHERE}, setup=KEYS),
    Reason.STORE_SLOW: Case(stage="verify", times=(0.0,)),
    Reason.SHM_FAILED: Case(stage="shm", setup="mount -t tmpfs -o nr_inodes=1 tmpfs /dev/shm", checkpoint=SIZES),
    Reason.CRIU_RESTORE_FAILED: Case(change("process/criu/inventory.img", blank), "criu", checkpoint=SIZES),
    Reason.THAW_TIMEOUT: Case(
        stage="criu", setup=HOLD_CRIU, checkpoint={**SIZES, "restore_attempts": 10}, times=(1.0, 8.0, 30.0, 120.0)
    ),
    Reason.ENGINE_UNRESPONSIVE: Case(
        stopped, "resume", checkpoint={**SIZES, "restore_attempts": 10}, times=(8.0, 30.0, 120.0, 500.0)
    ),
    Reason.CANARY_MISMATCH: Case(other_answers, "canary", checkpoint=SIZES),
}

NOT_ON_THIS_WAY = {
    Reason.RESTORED: "no failure",
    Reason.MODEL_UNRESOLVED: "needs a model from a hub: test_contents.py",
    Reason.CONTENT_UNREADABLE: "no thaw is tried: supervisor/test_steps.py",
    Reason.ENGINE_UNFREEZABLE: "of a freeze",
    Reason.STORE_FULL: "of a freeze: a thaw writes nothing to the store",
    Reason.STORE_READ_ONLY: "of a freeze: a thaw writes nothing to the store",
    Reason.LEASE_HELD: "of a freeze",
    Reason.LEASE_LOST: "of a freeze",
    Reason.PUBLISHED_BY_OTHER: "of a freeze",
    Reason.CRIU_MISSING: "found before anything is tried, as HostUnsupported",
    Reason.CRIU_DUMP_FAILED: "of a freeze",
    Reason.FILES_NOT_CARRIED: "of a freeze: test_surroundings.py",
    Reason.CONNECTIONS_OPEN: "of a freeze: test_surroundings.py",
    Reason.CUDA_CHECKPOINT_FAILED: "of a freeze",
    Reason.CUDA_RESTORE_FAILED: "needs a GPU",
    Reason.GPU_MEMORY_INSUFFICIENT: "needs a GPU",
    Reason.FREEZE_TIMEOUT: "of a freeze",
    Reason.FREEZE_GIVEN_UP: "of a freeze",
    Reason.THAW_GIVEN_UP: "the worker was told to stop: it does not start at all",
    Reason.CONTAINER_KILLED: "by nothing of this pod: supervisor/test_unfinished.py",
    Reason.ENGINE_START_FAILED: "of a cold start",
    Reason.ENGINE_START_TIMEOUT: "of a cold start",
    Reason.ENGINE_DIED: "of an engine that was up",
    Reason.CONFIG_INVALID: "the worker does not start at all",
    Reason.INTERNAL: "a bug",
}


def test_every_reason_is_in_one_of_the_tables() -> None:
    """A new reason must be made to happen here, or it must be said why a thaw cannot end with it."""
    assert CASES.keys() | NOT_ON_THIS_WAY.keys() == set(Reason)
    assert not CASES.keys() & NOT_ON_THIS_WAY.keys()


@pytest.mark.parametrize("reason", CASES)
def test_a_cold_start_says_why(creator: Pod, store: Path, start_pod: StartPod, tmp_path: Path, reason: Reason) -> None:
    case = CASES[reason]
    artifact = linked_copy(store, tmp_path / "store")
    case.damage(artifact)
    for seconds in case.times:
        checkpoint = case.checkpoint | {"thaw_timeout_seconds": seconds}
        pod = start_pod(tmp_path / "store", setup=case.setup, checkpoint=checkpoint)
        pod.wait_log("event=engine_start")  # cold: the reason is on the board by now
        processes = pod.processes()  # before the new engine has any that look like those of the thaw
        if (state := pod.state()).start_reason == reason or seconds == case.times[-1]:
            break
        assert state.start_reason in (Reason.THAW_TIMEOUT, Reason.STORE_SLOW), pod.log()
        pod.end()
    log = pod.log()
    metrics = pod.admin("/metrics")[1].decode()
    assert (state.start_mode, state.start_reason) == (StartMode.COLD, reason), log
    assert state.start_message
    assert f'vernal_worker_start_info{{mode="Cold",reason="{reason}"}} 1.0' in metrics
    (line,) = [line for line in log.splitlines() if "event=phase" in line and "mode=Cold" in line]
    assert f"reason={reason}" in line and ("next_step=" in line) == (reason in NEXT_STEP)
    if case.stage is None:
        assert state.restore_failures == []
        return
    (failure,) = state.restore_failures
    assert (failure.stage, failure.reason) == (case.stage, reason), failure
    (line,) = [line for line in log.splitlines() if "event=thaw_failed" in line]
    assert f"stage={case.stage} reason={reason}" in line and "next_step=" in line
    assert f'vernal_worker_restore_failures_total{{reason="{reason}",stage="{case.stage}"}} 1.0' in metrics
    assert [p for p in processes.values() if "VLLM" in p] == [], "nothing of the failed thaw is left"


def test_an_artifact_that_is_deleted_during_the_thaw_is_missing(
    creator: Pod, store: Path, start_pod: StartPod, tmp_path: Path
) -> None:
    """Whoever comes upon the gap: here it is CRIU, after everything was verified."""
    artifact = linked_copy(store, tmp_path / "store")
    pod = start_pod(tmp_path / "store", setup=HOLD_CRIU)
    pod.wait_log("phase=Thawing")
    until("everything verified", lambda: "verify" in pod.state().timings, more=pod.log)
    pod.wait_criu()
    shutil.rmtree(artifact)
    pod.release_criu()
    pod.wait_log("event=engine_start")
    (failure,) = pod.state().restore_failures
    assert (failure.stage, failure.reason) == ("verify", Reason.FILE_MISSING), failure
