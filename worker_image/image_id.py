#!/usr/bin/env python3
"""Names the content of the image that this runs in: `VENV/bin/python image_id.py FILE_OR_DIRECTORY...`.

Prints a SHA-256, in hex, over everything in the image that a process image depends on: memory that was mapped
from a file can only be restored where the same file is. It covers the interpreter, Debian's packages (the C
library is one), the installed Python distributions, and the files given: Vernal's code and CRIU. It is written
to /opt/vernal/image-id while the image is built. It needs no registry, in contrast to an image's digest, and is
the same for a rebuilt image.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from pathlib import Path

DPKG_STATUS = Path("/var/lib/dpkg/status")


def image_id(paths: Iterable[Path], dpkg_status: Path = DPKG_STATUS, site: Iterable[str] = sys.path) -> str:
    """The SHA-256, in hex, of one line for each thing the module's docstring lists, in sorted order.

    Args:
        paths: files, and directories of which every file counts except bytecode, which is made from the
        others. dpkg_status: dpkg's database (format: deb-control(5)); left out where it does not exist. site:
        the directories whose distributions count.

    Raises:
        OSError: one of the paths does not exist or cannot be read.
    """
    lines = [f"python {sys.implementation.cache_tag} {sys.version}", *_distributions(site)]
    if dpkg_status.exists():
        lines += _packages(dpkg_status.read_text())
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        lines += [f"file {file} {_digest(file.read_bytes())}" for file in files if file.suffix != ".pyc"]
    return _digest("\n".join(sorted(lines)).encode())


def _distributions(site: Iterable[str]) -> list[str]:
    # RECORD holds the digest of each file of a distribution:
    # https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    lines = []
    for distribution in importlib.metadata.distributions(path=list(site)):
        # Bytecode has no digest there and may or may not be listed; it is made from the rest.
        record = [row for row in (distribution.read_text("RECORD") or "").splitlines() if ".pyc," not in row]
        name = distribution.metadata["Name"].lower()
        lines.append(f"distribution {name} {distribution.version} {_digest(chr(10).join(sorted(record)).encode())}")
    return lines


def _packages(status: str) -> list[str]:
    lines = []
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            lines.append(f"package {fields['Package']} {fields['Version']} {fields['Architecture']}")
    return lines


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="Vernal's code and CRIU")
    print(image_id(parser.parse_args().paths))


if __name__ == "__main__":
    main()
