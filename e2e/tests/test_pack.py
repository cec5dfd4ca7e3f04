"""Pieces of what a GPU machine needs: nothing is lost, nothing is too big, and parts are in their order."""

import os
import shutil
import subprocess
from pathlib import Path

from gpu.pack import archive, cut, spread
from hypothesis import given
from hypothesis import strategies as st

UNPACK = Path(__file__).parents[1] / "gpu" / "unpack.sh"
SIZES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 50), min_size=1)


@given(SIZES, st.integers(1, 60))
def test_every_byte_is_in_one_piece_and_no_piece_is_too_big(sizes: dict[str, int], limit: int) -> None:
    pieces = spread(sizes, limit)
    assert all(0 < sum(end - begin for _, begin, end in parts) <= limit for parts in pieces)
    assert len(pieces) == -(-sum(sizes.values()) // limit)
    for name, size in sizes.items():
        parts = [(begin, end) for piece in pieces for part, begin, end in piece if part == name]
        assert [parts[0][0], *(end for _, end in parts)] == [*(begin for begin, _ in parts), size]


def test_parts_make_the_file_in_the_order_of_their_names(tmp_path: Path) -> None:
    source, together = tmp_path / "source", tmp_path / "together"
    (source / "whl").mkdir(parents=True)
    together.mkdir()
    (source / "big").write_bytes(bytes(range(250)))
    (source / "whl" / "small").write_bytes(b"small")
    pieces = cut(source, tmp_path / "pieces", 100)
    assert [piece.name for piece in pieces] == ["1", "2", "3"]
    parts = sorted(path for piece in pieces for path in piece.glob("big.part-*"))
    in_order = sorted(parts, key=lambda path: path.name)
    assert b"".join(path.read_bytes() for path in in_order) == bytes(range(250))
    assert in_order[0].name == "big.part-000000000000-000000000250"  # by which unpack.sh joins them
    assert (pieces[2] / "whl" / "small").read_bytes() == b"small"


def test_what_is_unpacked_is_what_was_packed_and_nothing_before_all_of_it_is_there(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "site" / "vllm").mkdir(parents=True)
    (tmp_path / "site" / "vllm" / "x.so").write_bytes(content)
    files, together, made = tmp_path / "files", tmp_path / "together", tmp_path / "made"
    for directory in (files, together):
        directory.mkdir()
    archive(files / "vllm.tar.xz", tmp_path / "site")
    first, *others = cut(files, tmp_path / "pieces", 100_000)
    command = ["bash", str(UNPACK), str(together), str(made)]
    shutil.copytree(first, together, dirs_exist_ok=True)
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"vllm.tar.xz: 100000 of {(files / 'vllm.tar.xz').stat().st_size} bytes" in refused.stderr
    for piece in others:
        shutil.copytree(piece, together, dirs_exist_ok=True)
    subprocess.run(command, capture_output=True, check=True)
    (found,) = made.glob("venv/lib/python3*/site-packages/vllm/x.so")
    assert found.read_bytes() == content
    assert (made / "env.sh").exists()
