"""Workers whose pool names a bucket: a real engine is frozen into a real S3 server, and thawed from it on an empty
disk."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from object_store.server import S3Server
from relay import Relay
from vernal_contract.config import ObjectStoreConfig
from vernal_contract.names import ENV_OBJECT_STORE
from worker_pod import Pod, until_listens

PORT = 9000
"""Of the server, as pods see it."""


class Bucket:
    """A bucket, and pods with an empty disk that name it."""

    def __init__(self, server: S3Server, start: Callable[..., Pod], directory: Path, stack: ExitStack) -> None:
        self.name = server.make_bucket()
        self.folder = server.folder(self.name)
        self._server, self._start, self._directory, self._stack = server, start, directory, stack
        self.credentials = {key: value for key, value in server.environment.items() if key != "AWS_REGION"}

    def pod(self) -> Pod:
        store = self._directory / f"disk-{len(list(self._directory.glob('disk-*')))}"
        store.mkdir()
        config = ObjectStoreConfig(
            url=f"s3://{self.name}/models",
            endpoint=f"http://127.0.0.1:{PORT}",
            region=self._server.environment["AWS_REGION"],
        )
        pod = self._start(
            store,
            setup=until_listens(PORT),  # the relay
            checkpoint={"object_store": config},
            environment={ENV_OBJECT_STORE + key: value for key, value in self.credentials.items()},
        )
        self._stack.enter_context(Relay(pod, PORT, self._server.port))
        return pod


@pytest.fixture(scope="module")
def bucket(start_pod_for_session: Callable[..., Pod], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server, ExitStack() as stack:
        yield Bucket(server, start_pod_for_session, tmp_path_factory.mktemp("disks"), stack)


@pytest.fixture(scope="module")
def frozen(bucket: Bucket) -> Pod:
    """The first worker, ready: it started cold and published its checkpoint in the bucket."""
    pod = bucket.pod()
    pod.wait_ready()
    return pod


def test_what_one_froze_another_thaws_from_the_bucket(bucket: Bucket, frozen: Pod) -> None:
    state = frozen.state()
    assert state.start_mode == "Cold" and state.start_reason == "NoArtifact", frozen.log()
    assert state.freeze is not None and state.freeze.outcome == "Published", frozen.log()
    assert state.artifact is not None
    thawing = bucket.pod()
    thawed = thawing.wait_ready()
    assert thawed.start_mode == "Restored" and thawed.artifact is not None, thawing.log()
    assert thawed.artifact.generation == state.artifact.generation
    assert thawing.complete() == frozen.complete()
    assert thawed.timings["pull"] >= 0 and "event=pull_began" in thawing.log()


def test_credentials_of_the_bucket_are_in_process_1_alone(bucket: Bucket, frozen: Pod) -> None:
    secret = bucket.credentials["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret in Path(f"/proc/{frozen.init}/environ").read_bytes()
    others = [pid for pid in frozen.processes() if pid != frozen.init]
    assert others
    for pid in others:
        assert secret not in Path(f"/proc/{pid}/environ").read_bytes(), frozen.processes()[pid]
    scanned = 0
    for file in bucket.folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            scanned += len(data)
            assert secret not in data and b"VERNAL_OBJECT_STORE_AWS" not in data, file
    assert scanned > 100_000_000
    assert secret not in frozen.log().encode() and secret not in frozen.admin("/state")[1]
