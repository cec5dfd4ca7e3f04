#!/usr/bin/env python3
"""Builds a container image without a registry: `python3 e2e/images/build.py worker-cpu|operator`.

Prints the path of an OCI layout, to be given to `python3 -m cluster load-image`. The image is known by its
content: it is named `vernal.local/KIND:KEY`, where KEY is a hash over all that it is made from, and it is built
if there is none with that key in the cache. The first build takes some minutes, most of them for vLLM's
environment; after a change of Vernal's code a build takes seconds, and only the new layers of less than a
megabyte are loaded into the cluster.

Needs root on Debian 12 or newer. Packages come from where pip, uv and apt are set up to get them on this
machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cache import cache_dir
from common.lock import locked
from common.progress import say, step
from common.tools import ToolError, fail

from images import base
from images.registries import MOUNT, ca_bundle, lent_settings, registry_hosts
from images.storage import layers, open_storage
from images.tools import (
    ROOT,
    UV_VERSION,
    code_files,
    content_key,
    uv_environment,
)
from images.traces import traces


@dataclass(frozen=True)
class Kind:
    """One of the images: its Containerfile and what that copies, relative to the root of the checkout."""

    name: str
    containerfile: str
    files: tuple[str, ...]
    packages: tuple[str, ...]  # Python packages of Vernal, in the last layers
    expected: str  # how long the first build takes

    def inputs(self, root: Path) -> list[Path]:
        """All files that the image is made from, in the checkout or copy of it at `root`."""
        fixed = [root / name for name in (self.containerfile, *self.files)]
        return fixed + [file for package in self.packages for file in code_files(root / package)]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="worker-cpu",
            containerfile="worker_image/Containerfile.cpu",
            files=("constraints/worker-cpu.txt", "worker_image/criu.py", "worker_image/image_id.py",
                   "worker_image/python_path.py", "worker_image/vllm_cpu.py"),
            packages=("contract/vernal_contract", "worker_image/vernal_worker"),
            expected="5 min the first time, 15 s after a change of code",
        ),
        Kind(
            name="operator",
            containerfile="operator/Containerfile",
            files=("constraints/operator.txt",),
            packages=("contract/vernal_contract", "operator/vernal_operator", "operator/vernal_waker"),
            expected="2 min the first time, 15 s after a change of code",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    """A built image: its OCI layout, a directory, and the name that it has in the cluster."""

    layout: Path
    reference: str


def planned(kind: Kind, base_image: str | None = None, root: Path = ROOT) -> Image:
    """What `build` makes from the checkout as it is now. Nothing is built; takes milliseconds.

    Raises:
        ToolError: this is no Debian, and no base image is given.
    """
    key = content_key(kind.inputs(root), base_image or base.key(), UV_VERSION, root=root)[:12]
    return Image(cache_dir() / "images" / f"{kind.name}-{key}", f"vernal.local/{kind.name}:{key}")


def build(kind: Kind, base_image: str | None = None) -> Image:
    """Builds the image unless it is in the cache.

    Args:
        base_image: an image to build on, which buildah pulls; by default a minimal Debian that is made here.

    Raises:
        ToolError: not root, no Debian, or packages cannot be fetched; the text says which.
    """
    image = planned(kind, base_image)
    if image.layout.exists():
        os.utime(image.layout)  # the newest are kept
        return image
    with locked(cache_dir() / "images", "building images"), TemporaryDirectory(prefix="vernal-context-") as name:
        context = Path(name)
        _copy_inputs(kind, context)
        # What was copied counts, if the checkout is being edited meanwhile.
        image = planned(kind, base_image, context)
        if image.layout.exists():
            return image
        storage = open_storage()
        on = base_image or base.ensure(storage)
        with step(f"building {image.reference} ({kind.expected})"), lent_settings() as settings:
            cache = Path(uv_environment()["UV_CACHE_DIR"])
            cache.mkdir(parents=True, exist_ok=True)
            local = f"localhost/{image.layout.name}"
            arguments = ["build", "--layers", "--format=oci", "--file", str(context / kind.containerfile)]
            arguments += [f"--build-arg=BASE={on}", f"--build-arg=UV_VERSION={UV_VERSION}", f"--tag={local}"]
            arguments += [f"--volume={settings}:{MOUNT}:ro", f"--volume={cache}:{MOUNT}/uv"]
            storage.buildah(*arguments, *([] if base_image else ["--pull=never"]), name)
        with step("writing the OCI layout (20 s the first time)"):
            images = image.layout.parent
            seen = {digest for layout in images.glob(f"{kind.name}-*") for digest, _ in layers(layout)}
            new = storage.export(local, image.reference, image.layout.name)
            _check(new, frozenset(seen))
            images.mkdir(parents=True, exist_ok=True)
            new.rename(image.layout)
        storage.prune(images, kind.name, on)
    total = sum(size for _, size in layers(image.layout))
    say(f"{image.reference}: {total / 1e6:.0f} MB in {len(layers(image.layout))} layers")
    return image


def _copy_inputs(kind: Kind, context: Path) -> None:
    for file in kind.inputs(ROOT):
        target = context / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        # buildah tells layers by these too; a fresh clone has others, and so has a checkout with another umask.
        target.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
        os.utime(target, (0, 0))
    for directory, _, _ in os.walk(context):
        Path(directory).chmod(0o755)
        os.utime(directory, (0, 0))


def _check(layout: Path, seen: frozenset[str]) -> None:
    ca = ca_bundle()
    if found := traces(layout, registry_hosts(), ca.read_bytes() if ca else b"", seen):
        raise ToolError(
            "the image would tell where it was built, in\n  " + "\n  ".join(found) + "\nThat is a mistake in its "
            "Containerfile: settings of this machine may only be used from /run/vernal-build, and not be kept."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS, help="the image")
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="also put the OCI layout here")
    parser.add_argument("--base", metavar="IMAGE", help="build on this image instead of a Debian made here")
    parser.add_argument("--print-ref", action="store_true", help="print the image's name and build nothing")
    arguments = parser.parse_args()
    kind = KINDS[arguments.kind]
    try:
        if arguments.print_ref:
            print(planned(kind, arguments.base).reference)
            return
        image = build(kind, arguments.base)
    except ToolError as error:
        fail(error)
    if arguments.out:
        shutil.copytree(image.layout, arguments.out, copy_function=os.link, dirs_exist_ok=True)
    print(arguments.out or image.layout)


if __name__ == "__main__":
    main()
