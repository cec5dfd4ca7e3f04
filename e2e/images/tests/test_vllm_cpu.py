"""What vllm_cpu.py does to the environment that these tests run in."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import mmap
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from images.tools import ROOT, load_script

MODULE: Any = load_script(ROOT / "worker_image" / "vllm_cpu.py")

SITE = Path(sysconfig.get_path("purelib"))
# Without libtorch_cuda.so, which is as good as these and takes seconds to read.
EDITED = [
    *(("torch", file, MODULE.cut_libraries) for file in MODULE.WITH_CUDA[1:]),
    *(("vllm-cpu", file, MODULE.cut_debugging) for file in MODULE.WITH_DEBUGGING),
]


def test_vllm_is_installed_under_its_own_name() -> None:
    assert importlib.metadata.version("vllm") == importlib.metadata.version("vllm-cpu") + "+cpu"


def test_torch_runs_without_libraries_for_gpus() -> None:
    import torch

    assert not torch.cuda.is_available()
    assert float((torch.ones(64, 64) @ torch.ones(64, 64)).sum()) == 64**3
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    assert not installed & {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"}


@pytest.mark.parametrize(("distribution", "file", "change"), EDITED, ids=[file for _, file, _ in EDITED])
def test_edited_files(distribution: str, file: str, change: Any, tmp_path: Path) -> None:
    recorded = {str(path): path.hash for path in importlib.metadata.files(distribution) or []}[file]
    digest = hashlib.sha256((SITE / file).read_bytes()).digest()
    assert recorded and recorded.value == base64.urlsafe_b64encode(digest).decode().rstrip("=")

    shutil.copy(SITE / file, tmp_path / "copy")
    with (tmp_path / "copy").open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as elf:
        assert not change(elf), "nothing is left to change"


def test_what_is_no_elf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"not an ELF file" * 10)
    with (
        (tmp_path / "text").open("r+b") as stream,
        mmap.mmap(stream.fileno(), 0) as text,
        pytest.raises(ValueError, match="ELF"),
    ):
        MODULE.cut_libraries(text)
