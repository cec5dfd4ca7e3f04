"""A store and things to put into it."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.staging import Staging
from vernal_worker.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # for fills


@pytest.fixture
def identity() -> IdentityInputs:
    return IdentityInputs(
        image_id="sha256:1",
        engine_args={"max_model_len": 4096},
        engine_env={},
        model="m",
        weights="InImage",
        versions={},
    )


@pytest.fixture
def host() -> HostTuple:
    return HostTuple(architecture="x86_64", cpu_features=("avx2", "sse2"), kernel="6.18", mounts=("/models",))


@pytest.fixture
def other_host() -> HostTuple:
    return HostTuple(architecture="x86_64", cpu_features=("sse2",), kernel="6.12", mounts=("/models",))


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts one with these options (takes root)."""
    place = tmp_path / "mounted"

    def mount(options: str) -> Path:
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
        return place

    yield mount
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on tmpfs, where fsync costs nothing."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-test-"))
    yield path
    shutil.rmtree(path)


def fill(staging: Staging, seed: int = 0, size: int = 3000) -> Staging:
    """A small artifact: files in directories, an empty one, one bigger than a read."""
    make = random.Random(seed).randbytes
    (staging.dir / "process" / "criu").mkdir(parents=True)
    (staging.dir / "process" / "criu" / "pages-1.img").write_bytes(make(size))
    (staging.dir / "process" / "process.json").write_bytes(make(100))
    (staging.dir / "oracle.json").write_bytes(make(1))
    (staging.dir / "empty").touch()
    return staging


@pytest.fixture
def filled() -> Callable[..., Staging]:
    return fill


@pytest.fixture
def in_children() -> Iterator[Callable[..., list[int]]]:
    """Runs a function in as many forked children as there are arguments, at once; returns their wait statuses."""
    running: list[int] = []

    def run(function: Callable[[Any], int], arguments: list[Any]) -> list[int]:
        for argument in arguments:
            pid = os.fork()
            if pid == 0:
                code = 99
                try:
                    code = function(argument)
                finally:
                    os._exit(code)
            running.append(pid)
        return [os.waitstatus_to_exitcode(os.waitpid(running.pop(0), 0)[1]) for _ in arguments]

    yield run
    for pid in running:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.fixture
def make(memory: Path, identity: Any, host: Any, filled: Any) -> Callable[..., Artifact]:
    """A published artifact; of each number another one, with an empty file and a directory in common."""
    root = memory / "store"
    root.mkdir()

    def publish(number: int = 0, size: int = 30_000) -> Artifact:
        store = Store(root)
        staging = store.stage(msgspec.structs.replace(identity, model=f"m{number}"), host)
        artifact: Artifact = filled(staging, number, size).publish(created_by="a", threads=1).artifact
        return artifact

    return publish


@pytest.fixture
def root(memory: Path) -> Path:
    path = memory / "cache"
    path.mkdir()
    return path
