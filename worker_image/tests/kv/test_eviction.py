"""What goes first when the store is too large, and what never goes: what is not ours."""

import os
import random
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.eviction import evict, scan
from vernal_worker.kv.keys import Salt, block_keys

LAYOUT = Layout(b"l" * 32, 4, 100)
FILE = 4096  # what each takes on a disk
OLD = time.time() - 7200


def saved(store: BlockStore, tokens: list[int], used: float | None = None) -> list[bytes]:
    """The keys of a prompt whose blocks are in the store, head first, each used a second after the one before."""
    keys = block_keys(tokens, LAYOUT.tokens)
    for index, key in enumerate(keys):
        store.write(key, memoryview(bytearray(LAYOUT.payload_bytes)))
        if used is not None:
            os.utime(store.path(key), (used + index, used + index))
    return keys


def left(store: BlockStore, keys: list[bytes]) -> list[bool]:
    return [store.contains(key) for key in keys]


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path, LAYOUT)


def test_of_a_prompt_the_last_blocks_go_first(store: BlockStore) -> None:
    """The head is written, and used, before the tail; without it the tail is of no use."""
    keys = saved(store, list(range(40)), OLD)
    evict(store.root, 5 * FILE)
    there = left(store, keys)
    assert there == [True] * 4 + [False] * 6


def test_of_several_prompts_the_least_recently_used_goes_first(store: BlockStore) -> None:
    system = list(range(8))
    old = saved(store, system + [100] * 16, OLD)
    new = saved(store, system + [200] * 16, OLD + 1000)
    evict(store.root, 7 * FILE)
    assert all(left(store, new))
    assert left(store, old) == [True] * 2 + [False] * 4, "what both begin with stays with the one that is used"


def test_other_layouts_and_salts_have_prompts_of_their_own(store: BlockStore) -> None:
    other = BlockStore(store.root, Layout(b"o" * 32, 4, 100))
    tokens = list(range(20))
    here, there = saved(store, tokens, OLD), saved(other, tokens, OLD + 1000)
    evict(store.root, 7 * FILE)
    assert all(left(other, there)) and left(store, here) == [True] + [False] * 4
    assert not set(here) & set(block_keys(tokens, 4, Salt("tenant")))


@given(seed=st.integers(0, 2**32), limit=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_what_stays_is_of_use(seed: int, limit: int) -> None:
    """Whatever was saved when, used when and lost before: no block goes before one that is behind it."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        store = BlockStore(Path(root), LAYOUT)
        trunk = draw.choices(range(5), k=20)
        prompts = [trunk[: draw.randrange(21)] + draw.choices(range(5), k=draw.randrange(16)) for _ in range(6)]
        chains = [saved(store, tokens, OLD + draw.randrange(1000)) for tokens in prompts]
        for path in store.root.glob("*/*/*.kv"):
            if draw.random() < 0.1:
                path.unlink()
        before = [left(store, keys) for keys in chains]
        evicted = evict(store.root, limit * FILE)
        assert evicted.bytes_after == sum(entry.bytes for entry in scan(store.root)) <= limit * FILE
        for keys, was in zip(chains, before, strict=True):
            there, intact = left(store, keys), (*was, False).index(False)
            assert there[:intact] == sorted(there[:intact], reverse=True)


@pytest.mark.parametrize(
    "name",
    [
        "notes.tmp",
        "checkpoints/half.tmp",
        "checkpoints/ab/weights.kv",
        "leases/.kv-eviction.0123456789abcdef.tmp",
        f"{'0' * 64}/experiment.tmp",
        f"{'0' * 64}/ab/.mine.tmp",
        f"{'0' * 64}/ab/results.kv",
        f"{'0' * 64}/ab/{'1' * 64}.kv.orig",
        f"{'0' * 64}/ab/deeper/{'1' * 64}.kv",
        f"{'0' * 64}/abc/{'1' * 64}.kv",
    ],
)
def test_files_of_others_are_neither_counted_nor_removed(store: BlockStore, name: str) -> None:
    path = store.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"somebody's")
    os.utime(path, (0, OLD))
    assert list(scan(store.root)) == []
    evict(store.root, 0)
    evict(store.root, None)
    assert path.read_bytes() == b"somebody's"


def test_what_a_link_leads_to_is_not_ours(store: BlockStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = BlockStore(tmp_path_factory.mktemp("elsewhere"), LAYOUT)
    keys = saved(elsewhere, list(range(8)), OLD)
    (store.root / ("0" * 64)).symlink_to(elsewhere.path(keys[0]).parent.parent)
    evict(store.root, 0)
    assert all(left(elsewhere, keys))


def test_temporary_files_of_ours_go_when_their_writer_is_long_dead(store: BlockStore) -> None:
    (key, *_) = saved(store, list(range(4)))
    block, layout = store.path(key).parent, store.path(key).parent.parent
    abandoned = [
        block / f".{'a' * 16}-{'0' * 16}.tmp",
        layout / f".layout.json-{'0' * 16}.tmp",
        store.root / f".eviction.json-{'0' * 16}.tmp",
    ]
    fresh = [path.with_name(path.name.replace("0" * 16, "1" * 16)) for path in abandoned]
    for path in abandoned + fresh:
        path.write_bytes(b"half")
    for path in abandoned:
        os.utime(path, (0, OLD))
    evict(store.root, 1 << 30)
    assert not any(path.exists() for path in abandoned)
    assert all(path.exists() for path in fresh)
    assert store.contains(key)


@pytest.mark.parametrize(
    "names",
    [["0:1", "1:0"], ["0:1", "1:2", "2:0", "3:0"], ["0:0", "0:1", "0:2"]],
    ids=["a circle", "a circle and a tail", "one tag of three blocks"],
)
def test_names_that_none_of_ours_have_do_not_keep_the_store_from_shrinking(store: BlockStore, names: list[str]) -> None:
    for name in names:
        tag, _, before = name.partition(":")
        path = store.path(bytes.fromhex(tag * 16 + "a" * 32 + before * 16))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(FILE))
    assert evict(store.root, 0).blocks == len(names)
    assert not list(scan(store.root))
