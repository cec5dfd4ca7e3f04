"""Starts that fail: the worker ends by itself, and its last words are vLLM's own about why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vernal_worker.supervisor.exits import ExitCode
from worker_pod import Pod, until_listens

StartPod = Callable[..., Pod]
NO_CHECKPOINT = {"policy": "Disabled"}


def no_weights(model: Path) -> None:
    for file in model.glob("*.safetensors"):
        file.unlink()


def broken_weights(model: Path) -> None:
    for file in model.glob("*.safetensors"):
        file.write_bytes(b"\xff" * 1000)


def unknown_architecture(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"architectures": ["NoSuchForCausalLM"], "model_type": "no"})
    )


CASES: dict[str, tuple[Callable[[Path], None] | None, dict[str, Any], str]] = {
    "argument": (None, {"engine_args": {"dtype": "nonsense"}}, "argument --dtype: invalid choice: 'nonsense'"),
    "too little memory for one request": (
        None,
        {"engine_args": {"numGpuBlocksOverride": 4, "blockSize": 128}},
        "ValueError: To serve at least one request",
    ),
    "no memory": (
        None,
        {"engine_args": {"kvCacheMemoryBytes": 100000 << 30, "numGpuBlocksOverride": None}},
        "is less than requested memory",
    ),
    "no weights": (no_weights, {}, "RuntimeError: Cannot find any model weights"),
    "broken weights": (broken_weights, {}, "SafetensorError"),
    "architecture": (unknown_architecture, {}, "does not recognize this architecture"),
    "tool parser": (
        None,
        {"engine_args": {"enableAutoToolChoice": True, "toolCallParser": "none-such"}},
        "invalid tool call parser: none-such",
    ),
    "shared memory": (None, {"setup": "mount -o remount,size=64m /dev/shm"}, "Insufficient space in /dev/shm"),
}


@pytest.fixture(scope="module")
def failing(model: Path, criu: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All of them, side by side: what counts is that they end."""
    pods: dict[str, Pod] = {}
    for name, (change, settings, _) in CASES.items():
        place = tmp_path_factory.mktemp("start")
        shutil.copytree(model, place / "model")
        (place / "store").mkdir()
        if change is not None:
            change(place / "model")
        settings = {"checkpoint": NO_CHECKPOINT, **settings}
        pods[name] = Pod(f"start-{len(pods)}", place / "log", place / "store", place / "model", criu, **settings)
    yield pods
    for pod in pods.values():
        pod.end()


@pytest.mark.parametrize("name", CASES)
def test_a_start_that_fails_ends_with_vllms_reason(failing: dict[str, Pod], name: str) -> None:
    pod = failing[name]
    assert pod.wait() == ExitCode.ENGINE_START_FAILED, pod.log()
    (last,) = [line for line in pod.log().splitlines() if " event=exit " in line]
    assert "reason=EngineStartFailed" in last and CASES[name][2] in last, last


def test_a_taken_port_is_said_before_anything_is_started(start_pod: StartPod, tmp_path: Path) -> None:
    take = "python3 -c 'import socket, time; s = socket.create_server((\"\", 8000)); time.sleep(3600)' &"
    pod = start_pod(tmp_path, setup=f"{take} {until_listens(8000)}", checkpoint=NO_CHECKPOINT)
    assert pod.wait() == ExitCode.PORT_UNAVAILABLE, pod.log()
    assert "serving port 8000" in pod.log() and "event=engine_start" not in pod.log()
