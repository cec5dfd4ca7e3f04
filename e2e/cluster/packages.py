"""Programs from Debian packages, the node's above all, unpacked into the cache: nothing is installed on the machine."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.cache import cache_dir
from common.lock import locked
from common.progress import step

from cluster.command import run
from cluster.errors import ClusterError

PROGRAMS = ("containerd", "runc", "containernetworking-plugins", "nftables", "libseccomp2")
# What nft needs beyond the C library: unpacked too, because a minimal machine has none of it.
LIBRARIES = (
    "libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libxtables12", "libedit2", "libgmp10",
    "libbsd0", "libmd0", "libtinfo6",
)  # fmt: skip


@dataclass(frozen=True)
class Packages:
    """A folder with Debian packages unpacked. `bin` holds what goes on PATH, `cni` the network plugins."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def cni(self) -> Path:
        return self.root / "usr/lib/cni"

    def __getitem__(self, name: str) -> str:
        return str(self.bin / name)


@dataclass(frozen=True)
class Unpacked:
    """A folder with the files of Debian packages."""

    root: Path

    @property
    def libraries(self) -> str:
        """A value for LD_LIBRARY_PATH."""
        return ":".join(str(self.root / folder) for folder in _library_folders(self.root))


def ensure() -> Packages:
    """The unpacked packages, downloaded first if the cache has none.

    Raises ClusterError if apt cannot get them.
    """
    return Packages(unpacked("node", [*PROGRAMS, *LIBRARIES], PROGRAMS, "about 40 MB, under a minute", _link).root)


def unpacked(
    folder: str, names: Sequence[str], told: Sequence[str], takes: str = "a few seconds",
    finish: Callable[[Path], None] = lambda root: None,
) -> Unpacked:  # fmt: skip
    """Packages in `folder` of the cache, downloaded first if they are not there: `told` says for people which, and
    `takes` how long. `finish` completes what was unpacked.

    Raises ClusterError if apt cannot get them.
    """
    release = platform.freedesktop_os_release()
    key = hashlib.sha256(f"{release.get('ID')} {release.get('VERSION_ID')} {platform.machine()} {list(names)}".encode())
    root = cache_dir() / folder / key.hexdigest()[:16]
    if not root.exists():
        with locked(root, "downloading Debian packages"):
            if not root.exists():
                with step(f"downloading {', '.join(told)} as Debian packages ({takes})"):
                    _unpack(names, root, finish)
    return Unpacked(root)


def _unpack(names: Sequence[str], root: Path, finish: Callable[[Path], None]) -> None:
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]:
        raise ClusterError(
            f"this machine has no {' and no '.join(missing)}, but {names[0]} comes from a Debian package: "
            "use Debian 12 or newer, or, for a cluster, set KUBECONFIG to one"
        )
    scratch = root.with_name(root.name + ".unpacking")
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    scratch.mkdir()
    try:
        _download(names, scratch)
        for package in sorted(scratch.glob("*.deb")):
            if (done := run(["dpkg-deb", "-x", package, scratch])).returncode:
                raise ClusterError(f"unpacking {package.name} failed: {done.stderr.strip()}")
            package.unlink()
        finish(scratch)
        scratch.rename(root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(names: Sequence[str], directory: Path) -> None:
    # The first try fails where apt's lists are missing or older than the archive: then they are updated.
    download = ["apt-get", "download", "-q", *names]
    for command in (download, ["apt-get", "update", "-q"], download):
        done = run(command, cwd=directory)
        if command is download and done.returncode == 0:
            return
    raise ClusterError(
        f"{' '.join(download)} failed:\n{(done.stdout + done.stderr).strip()[-2000:]}\n"
        "Check the network and apt's sources, or, for a cluster, set KUBECONFIG to one."
    )


def _link(root: Path) -> None:
    """Fill `bin`: links, and wrappers for the programs that need libraries from this folder."""
    folder = root / "bin"
    folder.mkdir(exist_ok=True)
    for program in ("containerd", "containerd-shim-runc-v2", "ctr"):
        (folder / program).symlink_to(f"../usr/bin/{program}")
    # Relative to the wrapper: the cache may be moved.
    libraries = ":".join(f"$here/{path}" for path in _library_folders(root))
    for program in ("runc", "nft"):
        found = next(path for path in (root / "usr/sbin" / program, root / "usr/bin" / program) if path.exists())
        wrapper = folder / program
        command = f'LD_LIBRARY_PATH="{libraries}" exec "$here/{found.relative_to(root)}" "$@"'
        wrapper.write_text(f"#!/bin/sh\nhere=${{0%/*}}/..\n{command}\n")
        wrapper.chmod(0o755)


def _library_folders(root: Path) -> list[str]:
    return sorted({str(path.parent.relative_to(root)) for path in root.rglob("*.so.*")})
