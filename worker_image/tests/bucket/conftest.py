"""A bucket in memory, or of a real S3 server (marker `s3`), and stores whose artifacts go there and back.

VERNAL_BUCKETS has the same tests take place in other buckets, too: `azure`, `gcs` (`make cloud-tests`).
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store.clouds import Azure, Gcs
from object_store.server import S3Server
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_worker.bucket.objects import Objects
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # for s3_proxy

MakeArtifact = Callable[..., Artifact]
OTHERS = os.environ.get("VERNAL_BUCKETS", "").split()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    with Azure(tmp_path_factory.mktemp("azure")) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    with Gcs(tmp_path_factory.mktemp("gcs")) as emulator:
        yield emulator


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.s3) for name in ("s3", *OTHERS))])
def objects(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Objects:
    if request.param == "memory":
        return Objects("memory:///")
    if request.param in OTHERS:
        emulator: Azure | Gcs = request.getfixturevalue(request.param)
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        return Objects(f"{emulator.make_bucket()}/prefix", endpoint=emulator.endpoint)
    server: S3Server = request.getfixturevalue("s3")
    request.getfixturevalue("s3_environment")
    return Objects(f"s3://{server.make_bucket()}/prefix", endpoint=server.url)


@pytest.fixture
def host() -> HostTuple:
    return HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.18")


@pytest.fixture
def identity() -> IdentityInputs:
    return IdentityInputs(image_id="sha256:1", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})


@pytest.fixture
def make(tmp_path: Path, identity: IdentityInputs, host: HostTuple) -> MakeArtifact:
    """Publishes an artifact with these files in a store of its own."""
    numbers = iter(range(1000))

    def make(files: dict[str, bytes] | None = None, **changes: Any) -> Artifact:
        root = tmp_path / f"creator-{next(numbers)}"
        root.mkdir()
        store = Store(root, signing_key=changes.get("signing_key"))
        staging = store.stage(changes.get("identity", identity), changes.get("host", host))
        for name, data in (files or {"process/a.img": b"a" * 5000, "oracle.json": b"{}", "empty": b""}).items():
            (staging.dir / name).parent.mkdir(parents=True, exist_ok=True)
            (staging.dir / name).write_bytes(data)
        return staging.publish(created_by="test").artifact

    return make


@pytest.fixture
def worker(tmp_path: Path) -> Store:
    """The store of who thaws."""
    root = tmp_path / "worker"
    root.mkdir()
    return Store(root)
