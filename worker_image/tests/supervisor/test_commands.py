"""`vernal-worker` as people use it, on a store with one artifact."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from vernal_contract import names
from vernal_contract.config import CheckpointConfig, ModelConfig, WorkerConfig, encode
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_worker.store.store import Store

INPUTS = IdentityInputs(
    image_id="i",
    engine_args={"max_model_len": 5},
    engine_env={},
    model="m/x",
    weights="InImage",
    versions={"vllm": "1"},
)
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    root.mkdir()
    staging = Store(root).stage(INPUTS, HOST)
    (staging.dir / "memory.img").write_bytes(b"x" * 5_000_000)
    staging.publish(created_by="default/pod-1")
    return root


@pytest.fixture
def run() -> Run:
    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vernal_worker", *map(str, arguments)]
        return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)

    return run


def test_help_teaches(run: Run) -> None:
    text = run("--help").stdout
    for word in ("VERNAL_CONFIG", "unshare", "curl", "doctor", "exit codes"):
        assert word in text


def test_inspect(run: Run, store: Path) -> None:
    done = run("inspect", "--store", store)
    assert done.returncode == 0
    for word in (digest(INPUTS)[:16], "m/x", "max_model_len=5", "vllm=1", "default/pod-1", "5 MB"):
        assert word in done.stdout
    assert "no artifacts" in run("inspect", "--store", store, "--identity", "0000").stdout


def test_verify_names_the_damaged_file(run: Run, store: Path) -> None:
    assert run("verify", "--store", store).returncode == 0
    (file,) = store.glob("artifacts/*/*/current/memory.img")
    file.chmod(0o600)
    file.write_bytes(b"y" + b"x" * 4_999_999)
    done = run("verify", "--store", store)
    assert done.returncode == 1 and "DigestMismatch" in done.stdout and "memory.img" in done.stdout


def test_diff_names_the_fields(run: Run, store: Path, tmp_path: Path) -> None:
    config = WorkerConfig(
        pool="p",
        namespace="n",
        revision="r",
        model=ModelConfig(name="m/x"),
        engine_args={"maxModelLen": 6},
        checkpoint=CheckpointConfig(store_path=str(store)),
    )
    done = run("diff", **{names.ENV_CONFIG: encode(config)})
    assert done.returncode == 1 and "does not fit" in done.stdout
    for field in ("engineArgs", "imageId", "versions"):
        assert f"  {field}: artifact has" in done.stdout
    assert run("diff", "--store", store, **{names.ENV_CONFIG: ""}).returncode == 2


def test_gc_removes_an_identity(run: Run, store: Path) -> None:
    assert run("gc", "--store", store).returncode == 0
    assert list(store.glob("artifacts/*/*/current"))
    done = run("gc", "--store", store, "--identity", digest(INPUTS))
    assert done.returncode == 0 and "freed 5 MB" in done.stdout
    assert not list(store.glob("artifacts/*/*/current"))
    assert run("gc", "--store", store, "--identity", "../..").returncode == 2


def test_no_store(run: Run, tmp_path: Path) -> None:
    for command in ("inspect", "verify", "gc"):
        done = run(command, "--store", tmp_path / "absent")
        assert done.returncode != 0 and "absent" in done.stderr


def test_doctor_says_what_is_missing(run: Run) -> None:
    done = run("doctor", VERNAL_CRIU="/nonexistent/criu")
    assert done.returncode == 1 and "FAIL criu" in done.stdout
