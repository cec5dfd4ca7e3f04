"""With a key, only what was made with the same key is anybody's artifact."""

from pathlib import Path

import pytest
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import Reason
from vernal_worker.store import manifest
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import Store

INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")
KEY, OTHER = b"sesame", b"another"


def publish(root: Path, key: bytes | None) -> str:
    staging = Store(root, signing_key=key).stage(INPUTS, HOST)
    (staging.dir / "memory.img").write_bytes(b"x")
    return staging.publish(created_by="test").artifact.generation


@pytest.mark.parametrize(("written", "read"), [(KEY, KEY), (KEY, None), (None, None)])
def test_what_is_signed_with_the_key_or_need_not_be_is_found(
    tmp_path: Path, written: bytes | None, read: bytes | None
) -> None:
    generation = publish(tmp_path, written)
    found = Store(tmp_path, signing_key=read).find(INPUTS, HOST)
    assert found.artifact is not None and found.artifact.generation == generation


@pytest.mark.parametrize("written", [OTHER, None])
def test_what_is_not_signed_with_the_key_is_refused_and_replaced(tmp_path: Path, written: bytes | None) -> None:
    forged = publish(tmp_path, written)
    with pytest.raises(StoreError, match="not signed with this worker's key") as error:
        Store(tmp_path, signing_key=KEY).find(INPUTS, HOST)
    assert (error.value.reason, error.value.generation) == (Reason.MANIFEST_INVALID, forged)
    assert publish(tmp_path, KEY) != forged
    assert Store(tmp_path, signing_key=KEY).find(INPUTS, HOST).artifact is not None


def test_a_signature_of_another_content_is_none(tmp_path: Path) -> None:
    """As of an older artifact of the same key, put in front of changed bytes whose digest is right."""
    generation = publish(tmp_path, KEY)
    (file,) = tmp_path.glob("artifacts/*/*/current/manifest.json")
    signed = file.read_bytes()
    found = manifest.decode(signed, generation, KEY)
    changed = manifest.encode(found, OTHER).replace(b"created", b"created", 1)
    mixed = changed[: changed.index(b'"signature"')] + signed[signed.index(b'"signature"') :].replace(
        b'"test"', b'"evil"'
    )
    for data in (changed, mixed, manifest.encode(found)):
        with pytest.raises(StoreError):
            manifest.decode(data, generation, KEY)
