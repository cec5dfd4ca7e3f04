#!/usr/bin/env python3
"""Brings a current CRIU from Debian unstable: `criu.py DIRECTORY`, which then holds `criu` and `lib/`.

Debian 12 has no CRIU and 3.17 of other releases is too old for current kernels, whose vDSO it does not know.
The program is taken from Debian unstable, through the mirror that apt is set up with and with apt's signature
checks, and nothing is installed on the machine. It comes with the C library and the others that it was linked
with, and with their dynamic linker: the executable is a script that starts this linker, so it runs on a
distribution with an older C library.

Needs Debian (or a relative with Debian's archive among its sources), apt and dpkg-deb; takes about 15 s.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# What AsyncLLM's process tree on a GPU needed; 4.1.1 gave up on an IPv6 TCP socket without a message.
MINIMUM = (4, 2)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

WRAPPER = """#!/bin/sh
# CRIU with the dynamic linker and the libraries that it was linked with: see criu.py.
here=$(dirname "$(readlink -f "$0")")
exec "$here/lib/{loader}" --library-path "$here/lib" "$here/lib/criu" "$@"
"""


class CriuError(Exception):
    """CRIU cannot be had; the text says why and what to do next."""


def install(directory: Path) -> str:
    """Puts CRIU into `directory`, which must not exist or be empty, and returns its version, such as `4.2.1`.

    Raises:
        CriuError: apt has no Debian archive or cannot fetch from it, or CRIU there is too old or broken.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise CriuError(
            "this machine has no apt-get and dpkg-deb, and CRIU is taken from Debian. "
            f"Put a CRIU of version {_dotted(MINIMUM)} or newer on PATH instead."
        )
    with tempfile.TemporaryDirectory(prefix="vernal-criu-") as scratch:
        work = Path(scratch)
        root = work / "root"
        for package in _download(work):
            _output(["dpkg-deb", "--extract", str(package), str(root)])
        _collect(root, work / "criu")
        version = check(work / "criu" / "criu")
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(work / "criu", directory, symlinks=True, dirs_exist_ok=True)
    return version


def check(criu: Path) -> str:
    """The version of the CRIU at this path. Raises CriuError if it does not start or is too old."""
    text = _output([str(criu), "--version"])
    found = re.search(r"^Version: (\d+(?:\.\d+)*)", text, re.MULTILINE)
    if not found:
        raise CriuError(f"`{criu} --version` names no version: {text.strip()!r}")
    if tuple(map(int, found[1].split("."))) < MINIMUM:
        raise CriuError(f"{criu} is CRIU {found[1]}, and {_dotted(MINIMUM)} is the oldest that can freeze vLLM")
    return found[1]


def _download(work: Path) -> list[Path]:
    """CRIU and what it depends on, as packages of Debian unstable, downloaded and verified by apt."""
    mirror = _mirror()
    if not KEYRING.exists():
        raise CriuError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    for directory in ("parts", "lists/partial", "cache/archives/partial", "root"):
        (work / directory).mkdir(parents=True)
    (work / "parts" / "unstable.sources").write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: unstable\nComponents: main\nSigned-By: {KEYRING}\n"
    )
    (work / "status").touch()  # nothing is installed, so that every library is fetched
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": work / "parts",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",  # its own user may not write to our directory
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
    }
    apt = [
        "apt-get",
        "--quiet=2",
        *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
    ]
    _output([*apt, "update"])
    _output([*apt, "--yes", "--download-only", "install", "criu"])
    return sorted((work / "cache" / "archives").glob("*.deb"))


def _mirror() -> str:
    """The address of Debian's archive, as this machine's apt is set up with."""
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"]
    for update in (False, True):
        if update:
            _output(["apt-get", "--quiet=2", "update"])
        if mirrors := sorted(set(_output(query).split())):
            return mirrors[0]
    raise CriuError("apt has no source of origin Debian: add Debian's main archive to /etc/apt/sources.list.d")


def _collect(root: Path, target: Path) -> None:
    """Copies the program and the libraries it loads out of unpacked packages, and writes the wrapper."""
    program = next((path for path in (root / "usr/sbin/criu", root / "usr/bin/criu") if path.exists()), None)
    loader = next(root.glob("usr/lib*/**/ld-linux-*.so.*"), None)
    if program is None or loader is None:
        raise CriuError("Debian's packages have no criu or no dynamic linker where they used to: criu.py must learn it")
    libraries = ":".join(sorted({str(path.parent) for path in root.glob("usr/lib/**/*.so.*")}))
    listing = _output([str(loader), "--library-path", libraries, "--list", str(program)])
    if "not found" in listing:
        raise CriuError(f"Debian's criu needs libraries that its packages do not depend on:\n{listing}")
    lib = target / "lib"
    lib.mkdir(parents=True)
    shutil.copy2(program, lib / "criu")
    shutil.copy2(loader, lib / loader.name)
    for name, path in re.findall(r"^\s*(\S+) => (\S+)", listing, re.MULTILINE):
        shutil.copy2(os.path.realpath(path), lib / Path(name).name)
    wrapper = target / "criu"
    wrapper.write_text(WRAPPER.format(loader=loader.name))
    wrapper.chmod(0o755)


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise CriuError(
            f"`{' '.join(command)}` exited with status {done.returncode}:\n"
            f"{(done.stdout + done.stderr).strip()[-2000:]}\n"
            "Check the network and apt's sources, then run this again."
        )
    return done.stdout


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a directory that does not exist yet, such as /opt/vernal/criu")
    directory = parser.parse_args().directory.absolute()
    if directory.exists() and any(directory.iterdir()):
        sys.exit(f"criu.py: error: {directory} is not empty: give another directory or remove it")
    print(f"criu.py: bringing CRIU from Debian unstable to {directory} (15 s)", file=sys.stderr)
    try:
        print(install(directory))
    except CriuError as error:
        sys.exit(f"criu.py: error: {error}")


if __name__ == "__main__":
    main()
