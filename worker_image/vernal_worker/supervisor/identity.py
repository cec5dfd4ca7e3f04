"""Gathers what the artifact identity is a hash of. Reads files; the parts that decide are pure."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vernal_contract import names
from vernal_contract.config import WeightsPlacement, WorkerConfig
from vernal_contract.identity import IdentityInputs

_PACKAGE = Path(__file__).parents[1]
_FROZEN = ("engine", "control", "kv", "checkpoint")
"""What of Vernal is in a frozen tree, or made it."""


def gather(
    config: WorkerConfig,
    arguments: Mapping[str, Any],
    shaping: Mapping[str, str],
    criu: str,
    weights: WeightsPlacement = WeightsPlacement.IN_IMAGE,
) -> IdentityInputs:
    """The identity inputs of the engine that `config` asks for, on this image.

    Args:
        arguments: what `engine_args.engine_arguments` gave.
        shaping: what `environment.tuning` gave.
        criu: CRIU's program name or path.
        weights: where the checkpoint has them.

    Raises:
        OSError: the model directory cannot be read.
    """
    versions = installed_versions(("vllm", "torch"), sys.path)
    versions |= {"python": platform.python_version(), "criu": criu_version(criu)}
    return IdentityInputs(
        image_id=image_id(Path(names.PATH_IMAGE_ID), versions),
        engine_args=dict(arguments),
        engine_env=dict(shaping),
        model=config.model.name,
        model_revision=config.model.revision,
        model_digest=model_digest(Path(config.model.path)) if config.model.path else None,
        dtype=arguments.get("dtype"),
        tensor_parallel=int(arguments.get("tensor_parallel_size", 1)),
        pipeline_parallel=int(arguments.get("pipeline_parallel_size", 1)),
        weights=weights,
        versions=versions,
    )


def installed_versions(distributions: Iterable[str], search_path: Iterable[str]) -> dict[str, str]:
    """Versions of installed distributions, from the names of their metadata directories.

    importlib.metadata does the same and takes longer to import than everything else here together.
    """
    pattern = re.compile(rf"({'|'.join(map(re.escape, distributions))})-([^-]+)\.dist-info")
    found: dict[str, str] = {}
    for directory in search_path:
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            if match := pattern.fullmatch(entry.name):
                found.setdefault(match[1], match[2])
    return found


def criu_version(criu: str) -> str:
    """Like "4.2.1", or "" where there is no CRIU."""
    try:
        output = subprocess.check_output([criu, "--version"], text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r"Version: (\S+)", output)
    return match[1] if match else ""


def image_id(path: Path, versions: Mapping[str, str]) -> str:
    """The content address that the image's build wrote, or, outside of an image, one made of Vernal's code and
    the versions it runs with."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    digest = hashlib.sha256(repr(sorted(versions.items())).encode())
    for file in sorted(file for part in _FROZEN for file in (_PACKAGE / part).rglob("*.py")):
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"code-{digest.hexdigest()}"


def model_digest(directory: Path) -> str:
    """Names and sizes of the model's files, and the content of its small ones that say what it is.

    Weights are not read: that would take longer than a thaw. Hidden files and directories are left out,
    because download tools keep their books there.

    Raises:
        OSError: the directory cannot be read.
    """
    digest = hashlib.sha256()
    for root, directories, files in os.walk(directory, onerror=_raise, followlinks=True):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                continue
            file = Path(root, name)
            digest.update(f"{file.relative_to(directory).as_posix()}\0{file.stat().st_size}\n".encode())
            if name == "config.json":
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _raise(error: OSError) -> None:
    raise error
