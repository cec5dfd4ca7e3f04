"""Why a thaw failed, and what differs."""

from typing import Any

from kubectl_vernal.views import explain
from recording import pod_of, world
from vernal_contract.reasons import NEXT_STEP, Reason


def test_a_failed_thaw_is_explained_with_the_next_step() -> None:
    def change(raw: dict[str, Any]) -> None:
        state = next(one for one in raw["states"].values() if one["startMode"] == "Cold" and one["pool"] == "qwen")
        state["startReason"] = "DigestMismatch"
        state["restoreFailures"] = [
            {"generation": "g1", "stage": "verify", "reason": "DigestMismatch", "message": "memory-12.bin"}
        ]

    found = world(change)
    text = "\n".join(explain.text(explain.view(found, pod_of(found, "Cold"))))
    assert "DigestMismatch at stage verify: memory-12.bin" in text
    assert NEXT_STEP[Reason.DIGEST_MISMATCH] in text


def test_more_of_cpu_and_mounts_does_no_harm_and_another_driver_does() -> None:
    def change(raw: dict[str, Any]) -> None:
        for state in raw["states"].values():
            state["host"]["cpuFeatures"] = [*state["host"]["cpuFeatures"], "zfuture"]
            state["host"]["gpuDriver"] = "600.1"

    found = world(change)
    view = explain.view(found, pod_of(found, "Restored"))
    assert view["checkpoints"][0]["identity"] == []
    assert view["checkpoints"][0]["host"] == ["gpuDriver: artifact has '580.159.04', this host has '600.1'"]
