"""What the scripts beside this file share: the cache, uv, progress, content hashes."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
UV_VERSION = "0.13.8"
QUIET_PIP = {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


class ToolError(Exception):
    """Something the user can act on; its text says what failed and what to do next."""


def cache_directory() -> Path:
    """Where all lives that can be made again: `VERNAL_CACHE`, or `vernal` in the user's cache directory."""
    if own := os.environ.get("VERNAL_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "vernal"


def say(text: str) -> None:
    """One line of progress to stderr: stdout carries answers such as a path."""
    print(f"vernal: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announces a step, with the time it is expected to take in its text, and says how long it took."""
    say(text)
    began = time.monotonic()
    yield
    say(f"{text.partition(' (')[0]}: {time.monotonic() - began:.1f} s")


def fail(error: ToolError) -> NoReturn:
    """Ends the program with the error's text."""
    raise SystemExit(f"vernal: error: {error}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One run at a time of what makes `path`: an advisory lock on a file that stays in the cache."""
    locks = cache_directory() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    with (locks / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that makes {path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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


def run(
    command: Sequence[str | Path],
    failed: str,
    env: Mapping[str, str] | None = None,
    hide: tuple[str, ...] = (),
) -> None:
    """Runs a command whose output is progress: it goes to stderr, less the lines that begin as in `hide`.

    Raises:
        ToolError: it exited with a status other than 0, or does not exist; `failed` says what to do about it.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, **(env or {})}
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
    except FileNotFoundError as error:
        raise ToolError(f"{words[0]} is not there. {failed}") from error
    with process:
        assert process.stdout
        for line in process.stdout:
            if not line.lstrip().startswith(hide or ("\0",)):
                print(line, end="", file=sys.stderr, flush=True)
    if process.returncode:
        raise ToolError(f"`{' '.join(words)}` exited with status {process.returncode}. {failed}")


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
            locked(cache_directory() / "apt"),
        ):
            advice = f"{what}: install {' and '.join(missing)}, and run this again."
            run(["apt-get", "-qq", "update"], advice)
            command = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *missing]
            run([*command, "-o", "DPkg::Lock::Timeout=300"], advice, {"DEBIAN_FRONTEND": "noninteractive"})


def uv() -> Path:
    """The installer uv at the pinned version, from the cache or installed there with pip.

    Raises:
        ToolError: pip cannot install it.
    """
    directory = cache_directory() / f"uv-{UV_VERSION}"
    binary = directory / "bin" / "uv"
    if not binary.exists():
        with locked(directory):
            if not binary.exists():
                with step(f"installing uv {UV_VERSION} into the cache (10 s)"):
                    # --target also works where the distribution manages its Python's packages (PEP 668).
                    new = directory.with_name(directory.name + ".new")
                    shutil.rmtree(new, ignore_errors=True)
                    pip: list[str | Path] = [
                        sys.executable,
                        "-m",
                        "pip",
                        "install",
                        "--quiet",
                        "--no-deps",
                        "--target",
                        new,
                    ]
                    run([*pip, f"uv=={UV_VERSION}"], "On Debian: apt-get install python3-pip.", QUIET_PIP)
                    new.rename(directory)
    return binary


def uv_environment() -> dict[str, str]:
    """What uv is run with. Its cache is in ours, unless the user chose one: images are built from it too."""
    return {
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(cache_directory() / "uv"),
        "UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT") or "300",
        "VIRTUAL_ENV": "",
    }
