#!/usr/bin/env python3
"""What the GPU tests and bench/restore need on a GPU machine without a network, in pieces small enough to be carried:
`python3 e2e/gpu/pack.py /var/tmp/pieces` (3 min).

That machine has x86-64, a driver, Python 3.12, torch and transformers, and no vLLM. Bring the pieces there one by one,
put the content of all of them into one directory, and run `e2e/gpu/unpack.sh` on it. Wheels come through pip as it is
configured here; their versions are those of constraints/worker-gpu-offline.txt.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.progress import say, step
from common.tools import ToolError, fail
from images.criu import brought

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints" / "worker-gpu-offline.txt"
PYTHON = "3.12"
GLIBC = (17, 24, 26, 27, 28, 31, 34)
"""Of manylinux_2_N, what that machine's C library can run."""

LEFT_OUT = (
    "vllm/_moe_C_stable_libtorch.abi3.so",  # of mixtures of experts
    "vllm/vllm-rs",  # another front end
    "vllm/third_party/deep_gemm",
    "vllm/third_party/fmha_sm100",
    "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so",  # Hopper has the third
)
"""Of vLLM's wheel, what dense models do not need on an H100 or H200: more than half of it."""


def fetch(into: Path) -> Path:
    """Wheels into `into`, but for vLLM's, whose path is returned.

    Raises:
        ToolError: pip says why.
    """
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation=cp",
         f"--python-version={PYTHON}", *platforms, "-d", into, "-r", CONSTRAINTS],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ToolError(f"pip cannot fetch {CONSTRAINTS}: {done.stderr.strip()}")
    (vllm,) = into.glob("vllm-*.whl")
    return vllm


def archive(target: Path, directory: Path) -> None:
    """All of a directory, packed. Raises: ToolError: tar says why."""
    command = ["tar", "--use-compress-program=xz -T0 -6", "-cf", str(target), "-C", str(directory), "."]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(f"tar cannot pack {directory}: {done.stderr.strip()}")


def spread(sizes: dict[str, int], limit: int) -> list[list[tuple[str, int, int]]]:
    """Files cut and put together so that no piece has more than `limit` bytes: (name, begin, end) of each part, in an
    order in which pieces are filled one after the other."""
    pieces: list[list[tuple[str, int, int]]] = [[]]
    room = limit
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        begin = 0
        while begin < size:
            if room == 0:
                pieces.append([])
                room = limit
            taken = min(room, size - begin)
            pieces[-1].append((name, begin, begin + taken))
            begin, room = begin + taken, room - taken
    return pieces


def cut(source: Path, into: Path, limit: int) -> list[Path]:
    """The files below `source` as pieces below `into`. A part of a file has behind its name where it begins, and how
    long the whole is, by which `unpack.sh` puts it together."""
    sizes = {str(path.relative_to(source)): path.stat().st_size for path in source.rglob("*") if path.is_file()}
    made = []
    for number, parts in enumerate(spread(sizes, limit), 1):
        made.append(into / str(number))
        for name, begin, end in parts:
            whole = (begin, end) == (0, sizes[name])
            target = made[-1] / (name if whole else f"{name}.part-{begin:012}-{sizes[name]:012}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with (source / name).open("rb") as file:
                file.seek(begin)
                target.write_bytes(file.read(end - begin))
    return made


def pack(into: Path, limit: int) -> list[Path]:
    """The pieces' directories."""
    with tempfile.TemporaryDirectory(prefix="pack-", dir=into) as temporary:
        work, files = Path(temporary), Path(temporary, "files")
        (files / "whl").mkdir(parents=True)
        with step("fetching wheels (20 s)"):
            wheel = fetch(files / "whl")
        with step("packing vLLM and CRIU (90 s)"):
            site = work / "site"
            with zipfile.ZipFile(wheel) as content:
                content.extractall(site)
            wheel.unlink()
            for name in LEFT_OUT:
                if not (site / name).exists():
                    raise ToolError(f"{wheel.name} has no {name}: see LEFT_OUT in {__file__}")
                shutil.rmtree(site / name) if (site / name).is_dir() else (site / name).unlink()
            archive(files / "vllm.tar.xz", site)
            archive(files / "criu.tar.xz", brought())
        return cut(files, into, limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to leave pieces as directories 1, 2, ...: empty or new")
    parser.add_argument("--mib", type=int, default=50, help="that a piece has at most (default: 50)")
    arguments = parser.parse_args()
    if arguments.mib < 1:
        parser.error("--mib: at least 1")
    try:
        arguments.directory.mkdir(parents=True, exist_ok=True)
        if any(arguments.directory.iterdir()):
            raise ToolError(f"{arguments.directory} is not empty")
        for piece in pack(arguments.directory, arguments.mib << 20):
            say(f"{piece}: {sum(path.stat().st_size for path in piece.rglob('*') if path.is_file()) / 2**20:.0f} MiB")
    except ToolError as error:
        fail(error)


if __name__ == "__main__":
    main()
