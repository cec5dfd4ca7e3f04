"""Files of the shared KV cache, whoever wrote them: a block is the one that was asked for, bit for bit, or a block
error; and whatever lies there, the store stays below its limit and touches nothing else."""

import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3
from fuzz.documents import damaged
from fuzz.documents import texts as json_texts
from fuzz.limits import bounded, outside, touched
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.kv.blockfile import HEADER_BYTES, MAGIC, BlockError, Failure
from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.eviction import RECORD_NAME, evict, scan
from vernal_worker.kv.sizelimit import SizeLimit

PAYLOAD = bytes(range(256)) * 4
LAYOUT = Layout(fingerprint=b"f" * 32, tokens=16, payload_bytes=len(PAYLOAD))
KEY = b"k" * 32
FIELDS = ("magic", "payload_bytes", "tokens", "zero", "fingerprint", "key")
lengths = st.sampled_from((0, 1, len(PAYLOAD) - 1, len(PAYLOAD), len(PAYLOAD) + 1, 2**31, 2**63, 2**64 - 1))


@contextmanager
def a_store() -> Iterator[BlockStore]:
    root = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-fuzz-"))
    try:
        yield BlockStore(root / "store", LAYOUT)
    finally:
        shutil.rmtree(root)


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """A block whose digest is right, and whose label and length are perhaps not."""
    head = struct.pack(
        "<8sQII32s32s",
        draw(st.just(MAGIC) | st.binary(min_size=8, max_size=8)),
        draw(lengths),
        draw(st.sampled_from((16, 0, 2**32 - 1))),
        draw(st.sampled_from((0, 0, 1))),
        draw(st.sampled_from((LAYOUT.fingerprint, b"F" * 32))),
        draw(st.sampled_from((KEY, b"K" * 32))),
    )
    payload = draw(st.sampled_from((PAYLOAD, PAYLOAD[:-1], PAYLOAD + b"x", b"")))
    return head + blake3(head).update(payload).digest() + draw(st.sampled_from((bytes(8), b"x" * 8))) + payload


@PROFILE
@given(blocks() | blocks().flatmap(damaged) | st.binary(max_size=HEADER_BYTES + 10))
def test_a_block_is_the_one_that_was_asked_for_or_none(data: bytes) -> None:
    with a_store() as store, bounded(), touched() as paths:
        assert store.write(KEY, memoryview(PAYLOAD)) is Saved.WRITTEN
        store.path(KEY).write_bytes(data)
        into = bytearray(len(PAYLOAD))
        try:
            store.read(KEY, memoryview(into))
        except BlockError as error:
            assert error.failure in Failure
            assert store.write(KEY, memoryview(PAYLOAD)) is Saved.WRITTEN, "what is wrong makes room for what is right"
            store.read(KEY, memoryview(into))
        assert into == PAYLOAD
        assert not outside(paths, store.root)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 44)


PLACED: dict[str, Callable[[Path], None]] = {
    "directory": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "fifo": _fifo,
    "hole": _hole,
    "nothing": lambda path: None,
}


@PROFILE
@given(st.sampled_from(sorted(PLACED)))
def test_what_is_no_file_is_no_block_and_holds_nobody_up(kind: str) -> None:
    with a_store() as store, bounded():
        path = store.path(KEY)
        path.parent.mkdir(parents=True)
        PLACED[kind](path)
        with suppress(BlockError):
            store.read(KEY, memoryview(bytearray(len(PAYLOAD))))
            raise AssertionError("it was read as a block")
        with suppress(OSError):
            store.write(KEY, memoryview(PAYLOAD))


tags = st.sampled_from(("0" * 16, "1" * 16, "2" * 16))
names = st.one_of(
    st.builds(lambda tag, before: f"{tag}{'a' * 32}{before}.kv", tags, tags),
    st.builds(lambda tag: f".{tag}-{tag}.tmp", tags),
    st.sampled_from(("layout.json", "x.kv", ".kv", "A" * 64 + ".kv", "é.kv", "a\nb.kv")),
)
folders = st.sampled_from(("f" * 64, "e" * 64, "leases", "ff", "F" * 64, "..."))
places = st.tuples(folders, st.sampled_from(("00", "ff", "0", "GG")), names)
trees = st.lists(st.tuples(places, st.integers(0, 3 * 4096)), max_size=12)


@PROFILE
@given(trees, st.integers(0, 40_000) | st.none())
def test_an_eviction_ends_below_the_limit_and_takes_nothing_else(
    tree: list[tuple[tuple[str, str, str], int]], limit: int | None
) -> None:
    """Names may lead round in circles: a block that is before itself, or before the one that is before it."""
    with a_store() as store, bounded():
        for place, size in tree:
            path = store.root.joinpath(*place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(size))
        store.root.mkdir(exist_ok=True)
        ours = {entry.path for entry in scan(store.root)}
        others = {path for path in store.root.rglob("*") if path.is_file()} - {Path(path) for path in ours}
        with touched() as paths:
            done = evict(store.root, limit)
        assert not outside(paths, store.root)
        left = sum(entry.bytes for entry in scan(store.root) if not entry.temporary)
        assert limit is None or left <= max(limit, 0)
        assert all(path.is_file() for path in others)
        assert done.bytes_after <= done.bytes_before and done.blocks <= len(ours)


@PROFILE
@given(json_texts(st.just({"bytes": 100, "scan": "s"})))
def test_a_record_of_an_eviction_that_is_none_is_passed_over(data: bytes) -> None:
    with a_store() as store, bounded():
        store.root.mkdir()
        (store.root / RECORD_NAME).write_bytes(data)
        limit = SizeLimit(store.root, 1000, Counters())
        limit._others_did(1000)
        limit.added(10)
        assert limit.stop(600.0)
