"""The image that others are built on where there is no registry: a minimal Debian, made from its packages.

It takes the place of docker.io/library/debian:…-slim: the packages that Debian calls essential, and apt.
"""

from __future__ import annotations

import platform
from pathlib import Path
from tempfile import TemporaryDirectory

from common.progress import step
from common.tools import ToolError, run

from images.registries import apt_options, apt_sources, ca_bundle
from images.storage import Storage
from images.tools import content_key

NAME = "localhost/vernal-base"
MMDEBSTRAP = ["mmdebstrap", "--variant=minbase", "--mode=root"]
# As in Debian's own slim images: no documentation but the licences, no translations.
MMDEBSTRAP += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
MMDEBSTRAP += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
# Where the packages came from, and how, is this machine's business. mmdebstrap itself removes apt's lists.
ADDRESSES = "sources.list sources.list.d/* apt.conf.d/99mmdebstrap"
MMDEBSTRAP += [f'--customize-hook=cd "$1/etc/apt" && rm -f {ADDRESSES} ../hostname ../resolv.conf']


def ensure(storage: Storage) -> str:
    """The name of the base image in the storage, made first if it is not there.

    Raises:
        ToolError: this is no Debian, or its packages cannot be fetched.
    """
    codename = _codename()
    image = f"{NAME}:{key()}"
    if not storage.has(image):
        with (
            step(f"making a minimal Debian {codename} (1 min)"),
            TemporaryDirectory(dir=storage.scratch) as name,
        ):
            directory = Path(name)
            _bootstrap(codename, directory)
            (directory / "Containerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["bash"]\n')
            storage.buildah("build", "--tag", image, str(directory))
    return image


def key() -> str:
    """What the base image is known by: Debian's release, the architecture, and how it is made.

    Raises:
        ToolError: this is no Debian.
    """
    return content_key([], _codename(), platform.machine(), *MMDEBSTRAP)[:12]


def _codename() -> str:
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or "VERSION_CODENAME" not in release:
        raise ToolError("images are built from Debian's packages, on Debian: use --base IMAGE elsewhere")
    return release["VERSION_CODENAME"]


def _bootstrap(codename: str, directory: Path) -> None:
    options = directory / "apt.conf"
    options.write_text(apt_options(str(ca_bundle() or "")))
    command = [*MMDEBSTRAP, f"--aptopt={options}", codename, str(directory / "base.tar"), "-"]
    # The same bytes for the same packages.
    environment = {"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(directory)}
    run(command, "Check the network and apt's sources.", environment, apt_sources())
