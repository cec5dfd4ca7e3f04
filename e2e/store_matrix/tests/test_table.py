"""What a cell says, and that red is red."""

from store_matrix import table
from store_matrix.table import Cell, Run

FULL = Cell((Run("published"), Run("refused", "StoreFull", "a"), Run("refused", "StoreFull", "b")))
BAD = Cell((Run("published"), Run("half", "x is missing", "before call 3")))


def test_cells() -> None:
    assert str(FULL) == "published 1; refused 2: StoreFull"
    assert str(BAD) == "HALF 1 of 2"
    assert str(Cell(not_run="no disk")) == "not run: no disk"


def test_red_is_named_with_its_place_and_point() -> None:
    rows = {"ext4": {"full": FULL, "killed": BAD}}
    (line,) = table.red(rows)
    assert line.startswith("ext4, killed, before call 3: HALF:") and "x is missing" in line
    assert table.red({"ext4": {"full": FULL}}) == []


def test_the_table() -> None:
    rows = {"ext4": {"full": FULL, "killed": BAD}, "NFS": {"full": Cell(not_run="no client")}}
    assert table.markdown(["full", "killed"], rows).splitlines() == [
        "| fault | ext4 |",
        "|---|---|",
        "| full | published 1; refused 2: StoreFull |",
        "| killed | HALF 1 of 2 |",
        "",
        "NFS: not run: no client",
    ]
    assert table.listing(["full", "killed"], rows).splitlines() == [
        "ext4",
        "  full    published 1; refused 2: StoreFull",
        "  killed  HALF 1 of 2",
        "",
        "NFS",
        "  full    not run: no client",
    ]
    assert table.summary(rows) == (
        "5 runs in 2 cells: 2 published, 2 refused, 1 half, wrong or hanging; 1 cells not run"
    )
