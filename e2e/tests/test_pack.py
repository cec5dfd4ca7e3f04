"""Pieces of what a GPU machine needs: nothing is lost, nothing is too big, and parts are in their order."""

from pathlib import Path

from gpu.pack import cut, spread
from hypothesis import given
from hypothesis import strategies as st

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
    assert in_order[0].name.endswith(".part-000000000000")  # by which unpack.sh finds it
    assert (pieces[2] / "whl" / "small").read_bytes() == b"small"
