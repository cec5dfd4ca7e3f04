"""Where images are built: buildah's storage inside the cache, and the OCI layouts that are taken out of it.

One OCI layout, `blobs`, holds the layers of all images. Each image gets a directory with a layout of its own,
whose blobs are hard links, so that a layer lies on the disk once and a new image writes only its new layers.
Format: https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cache import cache_dir
from common.tools import ToolError, run

from images.tools import install

PACKAGES = ("buildah", "mmdebstrap", "skopeo")
KEPT = 2  # images of one kind, the newest


@dataclass(frozen=True)
class Storage:
    """buildah's storage in a directory of the cache: what it holds can be built again."""

    directory: Path
    driver: str

    @property
    def scratch(self) -> Path:
        """For temporary files of the size of an image."""
        path = self.directory / "scratch"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def buildah(self, *arguments: str) -> None:
        """Runs buildah. Raises ToolError if it fails."""
        run([*self._command(), *arguments], "Check the network and this machine's registries.", self._environment())

    def has(self, image: str) -> bool:
        """Whether the storage has an image of this name."""
        done = subprocess.run(
            [*self._command(), "inspect", "--type", "image", "--format", "{{.FromImageID}}", image],
            capture_output=True,
            env={**os.environ, **self._environment()},
            check=False,
        )
        return done.returncode == 0

    def export(self, image: str, reference: str, tag: str) -> Path:
        """Writes the image as an OCI layout under the name `reference`, into a directory that the caller moves.

        `tag` tells it from the other images of this storage.
        """
        shared = self.directory / "blobs"
        # Uncompressed: compressing would cost more time than it saves where layers never travel, and only so are
        # layers told by their content alone, so that skopeo writes none that is there already. (buildah compresses.)
        source = f"containers-storage:[{self.driver}@{self.directory}/storage+{self.directory}/run]{image}"
        command = ["skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, f"oci:{shared}:{tag}"]
        run(command, "Is the disk full?", self._environment())
        index = json.loads((shared / "index.json").read_text())
        entry = next(entry for entry in index["manifests"] if _tag(entry) == tag)
        entry["annotations"] = {
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        }
        new = self.scratch / f"{tag}.new"
        shutil.rmtree(new, ignore_errors=True)
        (new / "blobs" / "sha256").mkdir(parents=True)
        for digest in _digests(shared, entry["digest"]):
            os.link(blob(shared, digest), blob(new, digest))
        (new / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (new / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}, indent=2))
        return new

    def prune(self, images: Path, kind: str, base: str) -> None:
        """Removes all but the newest KEPT layouts of a kind, and the images and blobs that no layout uses.

        `base` is the image that is built on: it is kept.
        """
        newest = sorted(images.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in newest[KEPT:]:
            shutil.rmtree(old)
        tags = {layout.name for layout in images.iterdir()}
        kept = {base, *(f"localhost/{tag}:latest" for tag in tags)}
        listing = json.loads(self._quietly("images", "--json")) or []
        names = {name for image in listing for name in image.get("names") or []}
        if unused := sorted(names - kept):
            self._quietly("rmi", "--force", *unused)
        # What is left without a name and without descendants: layers of the removed, and of builds that failed or were
        # killed, which leave containers too.
        self._quietly("rm", "--all")
        self._quietly("rmi", "--prune")
        shared = self.directory / "blobs"
        index = json.loads((shared / "index.json").read_text())
        index["manifests"] = [entry for entry in index["manifests"] if _tag(entry) in tags]
        (shared / "index.json").write_text(json.dumps(index))
        for blob in (shared / "blobs" / "sha256").iterdir():
            if blob.stat().st_nlink == 1:  # no layout has a link to it
                blob.unlink()

    def _quietly(self, *arguments: str) -> str:
        command = [*self._command(), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolError(f"`{' '.join(command)}` exited with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _command(self) -> list[str]:
        return ["buildah", f"--root={self.directory}/storage", f"--runroot={self.directory}/run",
                f"--storage-driver={self.driver}"]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {"TMPDIR": str(self.scratch), "BUILDAH_ISOLATION": "chroot"}


def open_storage() -> Storage:
    """The storage, with buildah installed first if it is missing.

    Raises:
        ToolError: not root, no Debian, or buildah does not work here.
    """
    if os.geteuid() != 0:
        raise ToolError("building images needs root: they hold files of several users. Run this with sudo.")
    install({program: program for program in PACKAGES}, "Images are built with buildah and mmdebstrap")
    directory = cache_dir() / "containers"
    directory.mkdir(parents=True, exist_ok=True)
    for driver in (
        "overlay",
        "vfs",
    ):  # overlay does not work on top of overlay, as in some containers; vfs is slower
        storage = Storage(directory / driver, driver)
        done = subprocess.run([*storage._command(), "info"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return storage
    raise ToolError(f"buildah does not work here: {done.stderr.strip()}")


def layers(layout: Path) -> list[tuple[str, int]]:
    """Digest and size in bytes of each layer of the one image in a layout, the lowest first."""
    index = json.loads((layout / "index.json").read_text())
    manifest = _manifest(layout, index["manifests"][0]["digest"])
    return [(layer["digest"], layer["size"]) for layer in manifest["layers"]]


def _tag(entry: dict[str, Any]) -> str:
    return str(entry["annotations"]["org.opencontainers.image.ref.name"])


def _digests(layout: Path, digest: str) -> Iterator[str]:
    manifest = _manifest(layout, digest)
    layers = [layer["digest"] for layer in manifest["layers"]]
    yield from dict.fromkeys([digest, manifest["config"]["digest"], *layers])


def _manifest(layout: Path, digest: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(blob(layout, digest).read_text())
    return manifest


def blob(layout: Path, digest: str) -> Path:
    """The file of a blob in an OCI layout."""
    return layout / "blobs" / Path(digest.replace(":", "/"))
