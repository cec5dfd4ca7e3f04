"""An artifact fits every host that has what its processes use, and no other."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import Reason
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import Store

INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.18", mounts=("/certs", "/model"))


def publish(store: Store, made_on: HostTuple, uses: HostTuple) -> str:
    staging = store.stage(INPUTS, made_on)
    (staging.dir / "memory.img").write_bytes(b"x")
    staging.narrow(uses)
    return staging.publish(created_by="test").artifact.generation


def test_an_artifact_is_known_by_what_its_processes_use(tmp_path: Path) -> None:
    """One pod has a sidecar's volume, another has a CPU with more flags: both thaw what a third has made."""
    store = Store(tmp_path)
    generation = publish(store, HOST, msgspec.structs.replace(HOST, mounts=("/model",)))
    for more in ({"mounts": ("/model", "/sidecar")}, {"cpu_features": ("amx_tile", "avx2")}, {}):
        found = store.find(INPUTS, msgspec.structs.replace(HOST, **more))
        assert found.artifact is not None and found.artifact.generation == generation


def test_a_host_that_lacks_something_is_told_what(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, HOST, HOST)
    for less, named in (({"mounts": ("/certs",)}, "/model"), ({"cpu_features": ()}, "avx2")):
        found = store.find(INPUTS, msgspec.structs.replace(HOST, **less))
        assert (found.artifact, found.reason) == (None, Reason.HOST_MISMATCH)
        assert named in found.message


def test_one_that_was_made_on_such_a_host_comes_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    mine = publish(store, HOST, HOST)
    publish(store, HOST, msgspec.structs.replace(HOST, mounts=()))
    found = store.find(INPUTS, HOST)
    assert found.artifact is not None and found.artifact.generation == mine


def test_one_that_has_failed_too_often_is_no_way_out(tmp_path: Path) -> None:
    store = Store(tmp_path, restore_attempts=1)
    uses = msgspec.structs.replace(HOST, mounts=())
    generation = publish(store, HOST, uses)
    failure: dict[str, Any] = {"stage": "criu", "reason": Reason.DIGEST_MISMATCH, "message": "m", "worker": "w"}
    store.record_failure(INPUTS, uses, generation, **failure)
    assert store.find(INPUTS, HOST).artifact is None


def test_one_that_cannot_be_read_is_said_to_be_broken_and_is_given_up_after_some_time(tmp_path: Path) -> None:
    """Which host it is for is not known then, but which one it is."""
    store = Store(tmp_path, restore_attempts=1)
    generation = publish(store, HOST, msgspec.structs.replace(HOST, mounts=()))
    (manifest,) = tmp_path.glob("artifacts/*/*/current/manifest.json")
    manifest.write_bytes(b"{}")
    with pytest.raises(StoreError) as error:
        store.find(INPUTS, HOST)
    assert (error.value.reason, error.value.generation) == (Reason.MANIFEST_INVALID, generation)
    assert error.value.host is not None
    failure: dict[str, Any] = {"stage": "find", "reason": Reason.MANIFEST_INVALID, "message": "m", "worker": "w"}
    store.record_failure(INPUTS, error.value.host, generation, **failure)
    assert store.find(INPUTS, HOST).artifact is None
    sound = publish(store, HOST, HOST)
    found = store.find(INPUTS, HOST)
    assert found.artifact is not None and found.artifact.generation == sound
