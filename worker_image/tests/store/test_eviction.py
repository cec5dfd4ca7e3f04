"""What a node cache keeps and what makes room."""

from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.store.eviction import BLOCK, KEPT_FREE, Cached, allowed, missing, on_disk, victims

SIZES = st.integers(0, 1 << 40)
NAMES = st.text("abcdefgh", min_size=1, max_size=3)
FILES = st.lists(
    st.builds(Cached, NAMES, st.integers(0, 50), st.integers(0, 5), st.booleans()),
    unique_by=lambda file: file.name,
    max_size=8,
)


@given(FILES, st.sets(NAMES), st.integers(0, 100), st.integers(0, 300))
def test_what_goes_makes_room_is_read_by_nobody_and_was_not_used_for_longest(
    files: list[Cached], keep: set[str], needed: int, room: int
) -> None:
    names = victims(files, keep, needed, room)
    known = {file.name: file for file in files}
    idle = [file for file in files if not file.held and file.name not in keep]
    total = sum(file.bytes for file in files)
    if names is None:
        assert total - sum(file.bytes for file in idle) + needed > room, "it would have been enough"
        return
    gone = [known[name] for name in names]
    assert len(set(names)) == len(names) and set(gone) <= set(idle)
    assert total - sum(file.bytes for file in gone) + needed <= room
    assert not gone or total - sum(file.bytes for file in gone[:-1]) + needed > room, "the last one need not have gone"
    stay = [file.used for file in idle if file.name not in names]
    assert not gone or not stay or max(file.used for file in gone) <= min(stay)


@given(SIZES, SIZES, SIZES, st.integers(1, 1 << 42))
def test_it_has_no_more_than_its_limit_and_leaves_the_disk_to_others(
    limit: int, used: int, free: int, total: int
) -> None:
    may = allowed(limit, used, free, total)
    assert 0 <= may <= limit
    if may > 0:
        assert free - (may - used) >= round(total * KEPT_FREE), "with all of it in use, too little would be left"


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 3)), st.dictionaries(st.integers(0, 9), st.integers(0, 3)))
def test_a_file_of_another_size_is_none(wanted: dict[int, int], there: dict[int, int]) -> None:
    gone = missing(wanted, there)
    assert len(set(gone)) == len(gone)
    for name, size in wanted.items():
        assert (name in gone) == (there.get(name) != size)


@given(SIZES)
def test_files_take_whole_blocks(size: int) -> None:
    assert size <= on_disk(size) < size + BLOCK and on_disk(size) % BLOCK == 0
