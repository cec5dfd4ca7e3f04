"""When a checkpoint or the store is not as it should be: a cold start in the same container, with the
reason."""

from collections.abc import Callable
from pathlib import Path

from harm import damage, flip_a_bit
from vernal_contract.state import FreezeOutcome, Phase, StartMode
from vernal_worker.checkpoint.taken import MEMORY
from vernal_worker.supervisor.exits import ExitCode
from worker_pod import Pod

StartPod = Callable[..., Pod]


def test_a_flipped_bit_is_found_and_the_checkpoint_is_made_anew(
    creator: Pod, cold_batch: dict[str, Pod], start_pod: StartPod, store: Path
) -> None:
    pod = cold_batch["flipped"]
    state = pod.wait_ready()
    (failure,) = state.restore_failures
    assert (failure.stage, failure.reason) == ("verify", "DigestMismatch")
    assert "pages-1.img" in failure.message
    assert (state.start_mode, state.start_reason) == (StartMode.COLD, "DigestMismatch")
    assert "next_step=" in next(line for line in pod.log().splitlines() if "thaw_failed" in line)
    assert pod.complete() == creator.complete()
    assert 'reason="DigestMismatch",stage="verify"} 1.0' in pod.admin("/metrics")[1].decode()
    # One attempt was allowed: the damaged generation is given up, and this worker made another.
    assert state.freeze is not None and state.freeze.outcome is FreezeOutcome.PUBLISHED, pod.log()
    assert state.artifact is not None and state.artifact.generation != failure.generation
    healed = start_pod(pod.store)
    assert healed.wait_ready().start_mode is StartMode.RESTORED
    assert healed.complete() == creator.complete()


def test_a_full_store_does_not_harm_the_source(creator: Pod, cold_batch: dict[str, Pod]) -> None:
    pod = cold_batch["full"]
    state = pod.wait_ready()
    assert state.freeze is not None and state.freeze.outcome is FreezeOutcome.FAILED
    assert state.freeze.reason == "StoreFull", state.freeze
    assert "canary" in state.timings, "it was quiet, so it was asked before it served"
    assert state.artifact is None and state.start_reason == "NoArtifact"
    assert pod.complete() == creator.complete()
    assert pod.files("/var/lib/vernal/store/staging") == []


def test_a_signal_during_the_freeze_leaves_no_trace(cold_batch: dict[str, Pod]) -> None:
    pod = cold_batch["interrupted"]
    assert pod.wait() == ExitCode.OK, pod.log()
    assert "phase=Freezing" in pod.log()
    assert "phase=Ready" not in pod.log()
    left = [path for path in pod.store.rglob("*") if not path.is_dir()]
    # What it has read of the model's contents is of use to whoever starts next.
    assert {path.parent.name for path in left} <= {"contents"} and not list((pod.store / "staging").glob("*"))


def test_an_engine_that_did_not_say_that_it_is_quiet_is_replaced(creator: Pod, cold_batch: dict[str, Pod]) -> None:
    """Nobody knows what it would do later."""
    pod = cold_batch["refused"]
    state = pod.wait_ready()
    assert state.freeze is not None and state.freeze.outcome is FreezeOutcome.FAILED, pod.log()
    assert state.freeze.reason == "EngineUnresponsive" and "has listened" in state.freeze.message
    assert pod.log().count("event=engine_start ") == 2 and "event=engine_replaced" in pod.log()
    assert pod.complete() == creator.complete()
    assert pod.files("/var/lib/vernal/store/staging") == []


def test_policy_required_stops_instead(creator: Pod, store: Path, start_pod: StartPod, tmp_path: Path) -> None:
    """The flipped bit is in a file that is compared while it is brought to the processes' memory."""
    (current,) = store.glob("artifacts/*/*/current")
    file = max(current.glob(f"process/{MEMORY}"), key=lambda path: path.stat().st_size)
    flipped = damage(store, tmp_path / "store", f"process/{file.name}", flip_a_bit)
    pod = start_pod(flipped, checkpoint={"policy": "Required"})
    assert pod.wait() == ExitCode.THAW_REQUIRED
    assert "stage=verify reason=DigestMismatch" in pod.log()
    last = pod.log().splitlines()[-1]
    assert "reason=DigestMismatch" in last and file.name in last and "next_step=" in last


def test_other_answers_than_before_the_freeze_are_found(
    creator: Pod, store: Path, start_pod: StartPod, tmp_path: Path
) -> None:
    """With sizes checked only, a changed byte gets as far as the canary."""

    def change(data: bytearray) -> None:
        at = data.index(b"]]", data.index(b"answers"))
        data[at - 1] = ord("1") if data[at - 1] != ord("1") else ord("2")

    changed = damage(store, tmp_path / "store", "oracle.json", change)
    pod = start_pod(changed, checkpoint={"policy": "Required", "verify": "Sizes"})
    assert pod.wait() == ExitCode.THAW_REQUIRED
    assert "stage=canary reason=CanaryMismatch" in pod.log()


def test_a_damaged_image_that_nobody_checked_ends_in_a_clean_failure(
    creator: Pod, store: Path, start_pod: StartPod, tmp_path: Path
) -> None:
    def cut(data: bytearray) -> None:
        data[:16] = bytes(16)

    broken = damage(store, tmp_path / "store", "process/criu/inventory.img", cut)
    pod = start_pod(broken, checkpoint={"policy": "Required", "verify": "Sizes"})
    assert pod.wait() == ExitCode.THAW_REQUIRED
    assert "stage=criu reason=CriuRestoreFailed" in pod.log()


def test_without_a_store_it_starts_cold(start_pod: StartPod, tmp_path: Path) -> None:
    pod = start_pod(tmp_path, checkpoint={"store_path": "/nonexistent"})
    _starts_cold(pod, "StoreUnavailable")


def test_with_a_read_only_store_it_starts_cold(start_pod: StartPod, tmp_path: Path) -> None:
    pod = start_pod(tmp_path, setup="mount -o remount,bind,ro /var/lib/vernal/store")
    pod.wait_log("reason=StoreReadOnly")
    _starts_cold(pod, "NoArtifact")


def _starts_cold(pod: Pod, reason: str) -> None:
    """It does so with `reason`, and can be stopped while it does."""
    pod.wait_log("event=engine_start")
    state = pod.state()
    assert (state.phase, state.start_mode, state.start_reason) == (Phase.STARTING, StartMode.COLD, reason)
    assert pod.admin("/startupz")[0] == 503 and pod.admin("/livez")[0] == 200
    assert pod.admin("/drain", "POST")[0] == 409
    pod.signal()
    assert pod.wait() == ExitCode.OK, pod.log()


def test_wrong_arguments_are_an_error_that_names_them(start_pod: StartPod, tmp_path: Path) -> None:
    wrong = {"noSuchArgument": 1, "tensorParallel": 1}  # a part of a name is none
    pod = start_pod(tmp_path, engine_args=wrong, checkpoint={"policy": "Disabled"})
    assert pod.wait() == ExitCode.ENGINE_START_FAILED
    last = pod.log().splitlines()[-1]
    assert "reason=EngineStartFailed" in last and "--no-such-argument" in last
    assert "--tensor-parallel " in last


def test_a_configuration_that_is_wrong_is_refused_at_once(start_pod: StartPod, tmp_path: Path) -> None:
    pod = start_pod(tmp_path, engine_args={"port": 1})
    assert pod.wait() == ExitCode.CONFIG_INVALID
    assert "engineArgs.port" in pod.log()
