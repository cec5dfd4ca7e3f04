"""Images are named as the kubelet asks for them, and only what containerd lacks is sent."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cluster import images
from cluster.errors import ClusterError

NAME = "vernal.dev/cluster/test:1"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    program = tmp_path / "program"
    program.write_bytes(b"not a real program")
    images.write_layout(tmp_path / "layout", NAME, {"pod": program})
    return tmp_path / "layout"


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("demo", "docker.io/library/demo:latest"),
        ("vernal/demo", "docker.io/vernal/demo:latest"),
        ("vernal.dev/demo", "vernal.dev/demo:latest"),
        ("localhost/demo:1", "localhost/demo:1"),
        ("localhost:5000/demo", "localhost:5000/demo:latest"),
        ("vernal.dev/demo@sha256:0", "vernal.dev/demo@sha256:0"),
    ],
)
def test_full_name(given: str, full: str) -> None:
    assert images.full_name(given) == full


def test_the_same_program_gives_the_same_digest(tmp_path: Path, layout: Path) -> None:
    images.write_layout(tmp_path / "again", NAME, {"pod": tmp_path / "program"})
    assert (tmp_path / "again" / "index.json").read_bytes() == (layout / "index.json").read_bytes()


def test_an_image_may_hold_several_programs_and_name_a_user(tmp_path: Path, layout: Path) -> None:
    program = tmp_path / "program"
    images.write_layout(tmp_path / "more", NAME, {"one": program, "two": program}, "65532:65532")
    manifest = _blob(tmp_path / "more", json.loads((tmp_path / "more" / "index.json").read_text())["manifests"][0])
    config = _blob(tmp_path / "more", json.loads(manifest)["config"])
    assert json.loads(config)["config"] == {"Entrypoint": ["/one"], "User": "65532:65532"}
    layer = gzip.decompress(_blob(tmp_path / "more", json.loads(manifest)["layers"][0]))
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        assert [(member.name, member.mode) for member in archive] == [("one", 0o755), ("two", 0o755)]


def _blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    return (layout / "blobs" / str(descriptor["digest"]).replace(":", "/")).read_bytes()


def test_a_name_must_be_there_and_more_than_a_tag(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    assert list(images.names_in(index, None, layout)) == [NAME]
    assert list(images.names_in(index, "other:2", layout)) == ["docker.io/library/other:2"]
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    with pytest.raises(ClusterError, match=r"'latest'.*--name"):
        images.names_in(index, None, layout)
    with pytest.raises(ClusterError, match="2 images"):
        images.names_in({"manifests": index["manifests"] * 2}, "other", layout)


def test_only_blobs_that_are_not_there_are_sent(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    wanted = images.names_in(index, None, layout)
    everything = _stream(layout, wanted, set())
    blobs = {f"sha256:{path.name}" for path in (layout / "blobs/sha256").iterdir()}
    assert len(blobs) == 3
    assert {name for name in everything if name.startswith("blobs/")} == {f"blobs/{b.replace(':', '/')}" for b in blobs}
    rest = _stream(layout, wanted, blobs - {wanted[NAME]["digest"]})
    assert set(rest) == {"oci-layout", "index.json", f"blobs/{wanted[NAME]['digest'].replace(':', '/')}"}
    (sent,) = json.loads(rest["index.json"])["manifests"]
    assert sent["annotations"]["io.containerd.image.name"] == NAME


def _stream(layout: Path, wanted: dict[str, dict[str, object]], present: set[str]) -> dict[str, bytes]:
    pipe = io.BytesIO()
    images.stream(images.Folder(layout), wanted, present, pipe)
    pipe.seek(0)
    with tarfile.open(fileobj=pipe) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
