"""What the scripts beside this file share: uv, Debian packages, content hashes."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from common.cache import cache_dir, made_once
from common.lock import locked
from common.progress import step
from common.tools import run

ROOT = Path(__file__).resolve().parents[2]
UV_VERSION = "0.13.8"
QUIET_PIP = {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def content_key(files: Iterable[Path], *more: str, root: Path = ROOT) -> str:
    """A SHA-256, in hex, over files (name relative to `root`, whether executable, content) and strings."""
    total = hashlib.sha256()
    for text in more:
        total.update(f"{len(text)} {text}\n".encode())
    for path in sorted(files):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        executable = bool(path.stat().st_mode & 0o100)
        total.update(f"{os.path.relpath(path, root)} {executable} {digest}\n".encode())
    return total.hexdigest()


def code_files(package: Path) -> list[Path]:
    """The files of a Python package that are its code: everything but bytecode."""
    return [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def load_script(path: Path) -> ModuleType:
    """The module in a file that lies in no package, such as a script that is copied into an image."""
    spec = importlib.util.spec_from_file_location(f"vernal_script_{path.stem}", path)
    assert spec and spec.loader, f"{path} is Python"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def install(programs: Mapping[str, str], what: str) -> None:
    """Install those Debian packages whose program is missing on this machine.

    Args:
        programs: program on PATH and the package that brings it.
        what: the first half of the advice if that fails, such as "Images are built with buildah".

    Raises:
        ToolError: no root, no Debian, or no package archive to be reached.
    """
    if missing := sorted({package for program, package in programs.items() if not shutil.which(program)}):
        with (
            step(f"installing Debian's {' and '.join(missing)} on this machine (20 s)"),
            locked(cache_dir() / "apt", "installing Debian packages"),
        ):
            advice = f"{what}: install {' and '.join(missing)}, and run this again."
            run(["apt-get", "-q", "update"], advice)
            command = ["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing]
            run([*command, "-o", "DPkg::Lock::Timeout=300"], advice, {"DEBIAN_FRONTEND": "noninteractive"})


def uv() -> Path:
    """The installer uv at the pinned version, from the cache or installed there with pip.

    Raises:
        ToolError: pip cannot install it.
    """

    def install(new: Path) -> None:
        # --target also works where the distribution manages its Python's packages (PEP 668).
        pip: list[str | Path] = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", new]
        run([*pip, f"uv=={UV_VERSION}"], "On Debian: apt-get install python3-pip.", QUIET_PIP)

    directory = cache_dir() / f"uv-{UV_VERSION}"
    return made_once(directory, f"installing uv {UV_VERSION} into the cache (10 s)", install) / "bin" / "uv"


def uv_environment() -> dict[str, str]:
    """What uv is run with. Its cache is in ours, unless the user chose one: images are built from it too."""
    return {
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(cache_dir() / "uv"),
        "UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT") or "300",
        # Another link to a file of the cache changes the ctime of all its links, and a worker that is frozen meanwhile
        # in any other environment takes the file for one that was made in its container.
        "UV_LINK_MODE": os.environ.get("UV_LINK_MODE") or "copy",
        "VIRTUAL_ENV": "",
    }
