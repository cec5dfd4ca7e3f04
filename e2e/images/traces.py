"""Looks for what a build must not leave in an image: where this machine's packages come from, and whom it trusts."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from images.storage import blob, layers

# Packages and their databases may name the public registries; nobody's settings are kept there.
_PACKAGES = re.compile(r"(usr/(?!local/)|opt/vernal/(venv|criu)/|bin/|lib|sbin/|var/lib/dpkg/)")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)


def traces(layout: Path, hosts: Iterable[str], ca_bundle: bytes, skip: frozenset[str] = frozenset()) -> list[str]:
    """What an image in an OCI layout tells about the machine it was built on, as `file: what`; empty if all is well.

    Args:
        hosts: of registries and mirrors.
        ca_bundle: this machine's certificate authorities (PEM). Those that come with the image's packages are not
            looked for.
        skip: digests of layers that were looked at before.
    """
    names = [host.encode() for host in hosts]
    found = [f"the image's configuration: {name.decode()}" for name in names if name in _configuration(layout)]
    own = certificates(ca_bundle)
    public: set[bytes] = set()
    suspects: list[tuple[str, set[bytes]]] = []
    for digest, _ in layers(layout):
        if digest in skip:
            continue
        for path, content in _files(blob(layout, digest)):
            inside = certificates(content)
            if path.startswith("usr/share/ca-certificates/"):
                public |= inside
            elif not _PACKAGES.match(path):
                found += [f"/{path}: {name.decode()}" for name in names if name in content]
                suspects.append((path, inside))
    found += [f"/{path}: a certificate authority of this machine" for path, inside in suspects if inside & own - public]
    return found


def certificates(pem: bytes) -> set[bytes]:
    """The certificates in a PEM file, each as its base64 without white space."""
    return {b"".join(body.split()) for body in _CERTIFICATE.findall(pem)}


def _configuration(layout: Path) -> bytes:
    index = json.loads((layout / "index.json").read_text())
    manifest = blob(layout, index["manifests"][0]["digest"]).read_bytes()
    return manifest + blob(layout, json.loads(manifest)["config"]["digest"]).read_bytes()


def _files(layer: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(layer) as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            if member.isfile() and (path.startswith("usr/share/ca-certificates/") or not _PACKAGES.match(path)):
                content = archive.extractfile(member)
                assert content, "a regular file has content"
                yield path, content.read()
