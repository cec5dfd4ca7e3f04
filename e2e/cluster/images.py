"""Container images without a registry: made with the standard library, given to containerd through `ctr`.

Formats: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from common.progress import note, step

from cluster.build import Binaries
from cluster.command import run
from cluster.errors import ClusterError
from cluster.layout import PAUSE_IMAGE, Node
from cluster.packages import Packages

_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_OCI = "application/vnd.oci.image"


class Layout(Protocol):
    """Files of an OCI image layout, by their path in it."""

    def open(self, path: str) -> IO[bytes]: ...
    def size(self, path: str) -> int: ...


class Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, path: str) -> IO[bytes]:
        return (self._root / path).open("rb")

    def size(self, path: str) -> int:
        return (self._root / path).stat().st_size


class Archive:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}

    def __contains__(self, path: str) -> bool:
        return path in self._members

    def open(self, path: str) -> IO[bytes]:
        if path not in self._members:
            raise FileNotFoundError(path)
        file = self._archive.extractfile(self._members[path])
        assert file, "only regular files are members"
        return file

    def size(self, path: str) -> int:
        return self._members[path].size


def load(packages: Packages, node: Node, source: Path, name: str | None = None) -> list[str]:
    """Import an image into containerd's namespace `k8s.io`, where the kubelet looks.

    `source` is an OCI layout (a directory, or a tar of one) or a tar in docker's format. `name` overrides the
    names written in an OCI layout. Only blobs that containerd lacks are sent, and none if it has the image.
    Returns the names of the images. Raises ClusterError if the source is none of these, or has no name.
    """
    if source.is_dir():
        if not (source / "index.json").exists():
            raise ClusterError(f"{source} is no OCI layout: it has no index.json")
        return _load_layout(packages, node, Folder(source), source, name)
    if not source.exists():
        raise ClusterError(f"{source} does not exist: give an OCI layout directory or a tar of an image")
    try:
        with tarfile.open(source) as archive:
            files = Archive(archive)
            if "index.json" in files:
                return _load_layout(packages, node, files, source, name)
            if "manifest.json" in files:
                return _load_docker(packages, node, source, json.load(files.open("manifest.json")), name)
    except tarfile.TarError as error:
        raise ClusterError(f"{source} is no tar: {error}") from error
    raise ClusterError(f"{source} is no image: it has neither index.json (OCI) nor manifest.json (docker)")


def full_name(name: str) -> str:
    """A name as the kubelet asks for it, with registry and tag: `demo` is `docker.io/library/demo:latest`.

    https://github.com/distribution/reference/blob/main/normalize.go
    """
    domain, slash, rest = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in domain or ":" in domain or domain == "localhost"):
        name = f"docker.io/{domain}/{rest}"
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def names_in(index: dict[str, Any], override: str | None, source: Path) -> dict[str, dict[str, Any]]:
    """The image names of an OCI index and the descriptor of each.

    Raises ClusterError where a name is missing or is only a tag.
    """
    manifests = index.get("manifests", [])
    if override and len(manifests) != 1:
        raise ClusterError(f"{source} holds {len(manifests)} images: --name needs exactly one")
    found = {}
    for descriptor in manifests:
        annotations = descriptor.get("annotations") or {}
        name = override or next((annotations[key] for key in _NAMES if key in annotations), None)
        if not name or not (override or "/" in name or ":" in name):
            raise ClusterError(f"an image in {source} has no full name in its annotation {_NAMES[1]} "
                               f"(found: {name!r}): give one with --name")  # fmt: skip
        found[full_name(name)] = descriptor
    return found


def _load_layout(packages: Packages, node: Node, files: Layout, source: Path, override: str | None) -> list[str]:
    named = names_in(json.load(files.open("index.json")), override, source)
    have = images(packages, node)
    wanted = {name: entry for name, entry in named.items() if have.get(name) != entry["digest"]}
    if wanted:
        present = set(_ctr(packages, node, "content", "list", "--quiet").split())
        with step(f"loading {', '.join(wanted)} (30 s a GB)"), _import(packages, node) as pipe:
            stream(files, wanted, present, pipe)
    return list(named)


def stream(files: Layout, wanted: dict[str, dict[str, Any]], present: set[str], pipe: IO[bytes]) -> None:
    manifests = [
        {**entry, "annotations": {_NAMES[0]: name, _NAMES[1]: name.rpartition(":")[2]}}
        for name, entry in wanted.items()
    ]
    with tarfile.open(mode="w|", fileobj=pipe) as out:
        _add(out, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
        paths = [
            _blob_path(digest) for digest in dict.fromkeys(_blobs(files, wanted.values())) if digest not in present
        ]
        total, sent = sum(map(files.size, paths)), 0
        for path in paths:
            note(f"{sent / 1e6:.0f} of {total / 1e6:.0f} MB")
            member = tarfile.TarInfo(path)
            member.size = files.size(path)
            with files.open(path) as blob:
                out.addfile(member, blob)
            sent += member.size
        note(f"{total / 1e6:.0f} MB sent, unpacking")


def _blobs(files: Layout, descriptors: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Digests of all that descriptors refer to, themselves first."""
    for descriptor in descriptors:
        yield descriptor["digest"]
        if descriptor["mediaType"].endswith(("manifest.v1+json", "manifest.v2+json", "index.v1+json", "list.v2+json")):
            with files.open(_blob_path(descriptor["digest"])) as file:
                document = json.load(file)
            children = [*document.get("manifests", []), *document.get("layers", [])]
            yield from _blobs(files, [*children, *([document["config"]] if "config" in document else [])])


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/', 1)}"


def _load_docker(packages: Packages, node: Node, source: Path, manifest: list[Any], name: str | None) -> list[str]:
    tags = [full_name(tag) for image in manifest for tag in image.get("RepoTags") or []]
    if name or not tags:
        raise ClusterError(f"{source} is in docker's format: its name is its RepoTags ({tags or 'none'}), "
                           "and --name works on OCI layouts only")  # fmt: skip
    with step(f"loading {', '.join(tags)} (30 s a GB)"):
        _ctr(packages, node, "images", "import", str(source))
    return tags


def images(packages: Packages, node: Node) -> dict[str, str]:
    """Names and manifest digests of the images that containerd has."""
    rows = [line.split() for line in _ctr(packages, node, "images", "list").splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def remove_containers(packages: Packages, node: Node) -> None:
    """Delete every container and sandbox, running or not, with its snapshot. Images stay."""
    # containerd takes away ended tasks by itself, so some are gone between being listed and being deleted.
    for _ in range(20):
        if not (tasks := _ctr(packages, node, "tasks", "list", "--quiet").split()):
            break
        run(_command(packages, node, "tasks", "delete", "--force", *tasks))
    if containers := _ctr(packages, node, "containers", "list", "--quiet").split():
        _ctr(packages, node, "containers", "delete", *containers)


def _command(packages: Packages, node: Node, *arguments: str) -> list[str]:
    return [packages["ctr"], "--address", str(node.state.containerd_socket), "--namespace", "k8s.io", *arguments]


def _ctr(packages: Packages, node: Node, *arguments: str) -> str:
    done = run(_command(packages, node, *arguments))
    if done.returncode:
        raise ClusterError(f"ctr {' '.join(arguments)} failed: {done.stderr.strip()}\nIs the cluster up? Ask `status`.")
    return done.stdout


@contextmanager
def _import(packages: Packages, node: Node) -> Iterator[IO[bytes]]:
    command = _command(packages, node, "images", "import", "-")
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as process:
            assert process.stdin
            try:
                yield process.stdin
            except BrokenPipeError:
                pass  # ctr gave up: what it said is the reason
        said.seek(0)
        if process.returncode:
            raise ClusterError(f"ctr images import failed: {said.read().decode(errors='replace').strip()[-2000:]}")


def load_pause(binaries: Binaries, packages: Packages, node: Node) -> None:
    """Load the image of every pod's sandbox. It holds `go/pod`; with `serve PORT` it is a web server."""
    with tempfile.TemporaryDirectory() as scratch:
        write_layout(Path(scratch), PAUSE_IMAGE, {"pod": Path(binaries["pod"])})
        load(packages, node, Path(scratch))


def write_layout(directory: Path, name: str, programs: Mapping[str, Path], user: str = "") -> None:
    """Write an OCI layout of an image that holds static programs, by their names in `/`, and nothing else.

    The first one runs if a pod names none, as `user` (root if empty). Same programs, same digest.
    """
    layer = io.BytesIO()
    with tarfile.open(mode="w", fileobj=layer) as archive:
        for called, program in programs.items():
            member = tarfile.TarInfo(called)
            member.size, member.mode = program.stat().st_size, 0o755
            with program.open("rb") as file:
                archive.addfile(member, file)
    packed = gzip.compress(layer.getvalue(), compresslevel=1, mtime=0)
    config = {
        "architecture": _architecture(), "os": "linux",
        "config": {"Entrypoint": [f"/{next(iter(programs))}"], **({"User": user} if user else {})},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _write_blob(directory, f"{_OCI}.config.v1+json", json.dumps(config).encode()),
        "layers": [_write_blob(directory, f"{_OCI}.layer.v1.tar+gzip", packed)],
    }  # fmt: skip
    entry = _write_blob(directory, f"{_OCI}.manifest.v1+json", json.dumps(manifest).encode())
    index = {"schemaVersion": 2, "manifests": [{**entry, "annotations": {_NAMES[1]: name}}]}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps(index))


def _write_blob(directory: Path, media_type: str, content: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = directory / _blob_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
