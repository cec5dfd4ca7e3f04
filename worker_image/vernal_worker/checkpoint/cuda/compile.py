"""Compiles the GPU's kernels: `python -m vernal_worker.checkpoint.cuda.compile [DIRECTORY]`, when an image is built.

It needs NVRTC (https://docs.nvidia.com/cuda/nvrtc), which comes with PyTorch for CUDA, and no GPU.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from vernal_worker.checkpoint.cuda.digest import SOURCE, compiled
from vernal_worker.checkpoint.cuda.driver import DriverError

OLDEST = 80
"""Compute capability of the oldest GPUs that vLLM's own kernels are for: Ampere."""


def compile_all(directory: Path) -> list[Path]:
    """Compile for every kind of GPU that the compiler knows, and write the files.

    Raises:
        DriverError: a call failed; the compiler's messages are on stderr.
        ImportError: cuda-bindings is missing; RuntimeError: NVRTC is; OSError: the directory cannot be written.
    """
    written = []
    for architecture in _call("nvrtcGetSupportedArchs"):
        if architecture >= OLDEST:
            written.append(path := compiled(directory, architecture))
            path.write_bytes(_compile(architecture))
    return written


def _compile(architecture: int) -> bytes:
    program = _call("nvrtcCreateProgram", SOURCE.read_bytes(), SOURCE.name.encode(), 0, None, None)
    try:
        _call("nvrtcCompileProgram", program, 1, [b"--gpu-architecture=sm_%d" % architecture])
        code = bytearray(_call("nvrtcGetCUBINSize", program))
        _call("nvrtcGetCUBIN", program, code)
        return bytes(code)
    except DriverError:
        messages = bytearray(_call("nvrtcGetProgramLogSize", program))
        _call("nvrtcGetProgramLog", program, messages)
        print(messages.rstrip(b"\0\n").decode(errors="replace"), file=sys.stderr)
        raise


def _call(function: str, *arguments: Any) -> Any:
    from cuda.bindings import nvrtc

    code, *values = getattr(nvrtc, function)(*arguments)
    if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise DriverError(function, code.name)
    return values[0] if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=SOURCE.parent, help="default: beside the source")
    try:
        for path in compile_all(parser.parse_args().directory):
            print(path)
    except (ImportError, RuntimeError) as error:
        needed = "cuda-bindings and nvidia-cuda-nvrtc, of the CUDA version of PyTorch"
        sys.exit(f"the GPU's kernels cannot be compiled: {error}. Install {needed}, and run this again.")


if __name__ == "__main__":
    main()
