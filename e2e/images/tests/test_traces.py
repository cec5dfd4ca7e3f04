"""Traces of the machine that an image was built on are found, wherever a build could leave them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from images.traces import traces

HOST = "mirror.internal.example"
OWN = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(b"own" * 30) + b"-----END CERTIFICATE-----\n"
PUBLIC = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(b"all" * 30) + b"-----END CERTIFICATE-----\n"
CLEAN = {
    "usr/share/ca-certificates/mozilla/Public.crt": PUBLIC,
    "etc/ssl/certs/ca-certificates.crt": PUBLIC,
    "usr/share/doc/apt/examples": f"deb http://{HOST}/debian".encode(),  # a package's own file
    "etc/hostname": b"",
}


def layout(directory: Path, files: dict[str, bytes], configuration: str = "{}") -> Path:
    """An OCI layout with one image of one layer."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    def put(content: bytes) -> dict[str, str | int]:
        digest = hashlib.sha256(content).hexdigest()
        (directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (directory / "blobs" / "sha256" / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    manifest = {"config": put(configuration.encode()), "layers": [put(data.getvalue())]}
    index = {"manifests": [put(json.dumps(manifest).encode())]}
    (directory / "index.json").write_text(json.dumps(index))
    return directory


def test_a_clean_image_has_none(tmp_path: Path) -> None:
    assert traces(layout(tmp_path, CLEAN), [HOST], PUBLIC + OWN) == []


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("etc/apt/sources.list.d/debian.sources", f"URIs: http://{HOST}/debian".encode()),
        ("root/.config/uv/uv.toml", f'index-url = "https://u:p@{HOST}/simple"'.encode()),
        ("opt/vernal/build/env", f"export UV_DEFAULT_INDEX=https://{HOST}/simple".encode()),
        ("usr/local/etc/pip.conf", HOST.encode()),
        ("etc/ssl/certs/ca-certificates.crt", PUBLIC + OWN),
        ("run/vernal-build/ca.crt", OWN),
    ],
)
def test_traces_in_files(tmp_path: Path, path: str, content: bytes) -> None:
    found = traces(layout(tmp_path, CLEAN | {path: content}), [HOST], PUBLIC + OWN)
    assert [line.partition(":")[0] for line in found] == ["/" + path]


def test_traces_in_the_configuration(tmp_path: Path) -> None:
    history = json.dumps({"history": [{"created_by": f"|1 INDEX=https://{HOST}/simple /bin/sh -c true"}]})
    assert traces(layout(tmp_path, CLEAN, history), [HOST], b"") == [f"the image's configuration: {HOST}"]
