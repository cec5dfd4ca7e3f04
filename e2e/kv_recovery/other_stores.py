"""Damaged blocks here and in vLLM's own file tier, and how fast both read: `python -m kv_recovery.other_stores`.

vLLM's is the secondary tier `fs` of its OffloadingConnector (`TieringOffloadingSpec`), the code of the installed
version: it writes blocks, they are damaged, it reads them. Its way to a GPU is not part of this, and cannot run without
one.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vernal_worker.kv.blockfile import BlockError
from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.fingerprint import fingerprint

from kv_recovery import speed, spread

_BYTES = 128 << 10
_KEYS = [bytes([number]) * 32 for number in range(2)]
RIGHT, WRONG = "right bytes", "WRONG BYTES"


class Store(Protocol):
    """Blocks of one model. `weights` are what tells it from others of the same name and shape."""

    def write(self, key: bytes, payload: bytes) -> None: ...

    def read(self, key: bytes) -> bytes | str:
        """The block, or why it is refused."""

    def file(self, key: bytes) -> Path: ...


class Ours:
    def __init__(self, root: Path, weights: str) -> None:
        facts = {"model": weights, "block_bytes": _BYTES}
        self._store = BlockStore(root, Layout(fingerprint(facts), 16, _BYTES))

    def write(self, key: bytes, payload: bytes) -> None:
        self._store.write(key, memoryview(payload))

    def read(self, key: bytes) -> bytes | str:
        into = bytearray(_BYTES)
        try:
            self._store.read(key, memoryview(into))
        except BlockError as error:
            return f"refused: {error.failure}"
        return bytes(into)

    def file(self, key: bytes) -> Path:
        return self._store.path(key)


class Theirs:
    """vLLM's tier asks nobody about weights: directories are named after the model's name, shape and parallelism."""

    def __init__(self, root: Path, weights: str) -> None:
        from vllm.v1.kv_offload.base import make_offload_key
        from vllm.v1.kv_offload.file_mapper import FileMapper
        from vllm.v1.kv_offload.tiering.fs import io

        parallel = {"tp_size": 1, "pp_size": 1, "pcp_size": 1, "dcp_size": 1, "rank": 0}
        self._mapper: Any = FileMapper(str(root), "model", 16, 1, **parallel, dtype="bfloat16")
        self._key: Callable[[bytes], Any] = lambda key: make_offload_key(key, 0)
        self._io: Any = io

    def write(self, key: bytes, payload: bytes) -> None:
        self._io.batch_store_block([str(self.file(key))], memoryview(bytearray(payload)), [0], _BYTES, False)

    def read(self, key: bytes) -> bytes | str:
        into = bytearray(_BYTES)
        try:
            self._io.batch_load_block([str(self.file(key))], memoryview(into), [0], _BYTES, False)
        except OSError as error:
            return f"refused: {error.strerror or 'short'}"
        return bytes(into)

    def file(self, key: bytes) -> Path:
        return Path(self._mapper.get_file_name(self._key(key)))


@dataclass(frozen=True)
class Case:
    name: str
    damage: Callable[[Path, Path], None]
    """What happens to a block's file; the second is another block's."""
    other_weights: bool = False
    """Whether who reads has other weights than who wrote."""


def _flip(file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def _take_the_others(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


def _lengthen(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


def _lose_the_end(file: Path, other: Path) -> None:
    size = file.stat().st_size
    os.truncate(file, size // 2)
    os.truncate(file, size)


CASES = [
    Case("nothing", lambda file, other: None),
    Case("a bit is flipped", _flip),
    Case("another block's content", _take_the_others),
    Case("the second half is zeros, as after a power cut", _lose_the_end),
    Case("the second half is missing", lambda file, other: os.truncate(file, file.stat().st_size // 2)),
    Case("it is longer", _lengthen),
    Case("a model of the same name, other weights", lambda file, other: None, other_weights=True),
]


def outcome(case: Case, kind: Callable[[Path, str], Store], root: Path) -> str:
    """`RIGHT`, `WRONG`, or that the block is refused and why."""
    payloads = [os.urandom(_BYTES) for _ in _KEYS]
    writer = kind(root, "weights")
    for key, payload in zip(_KEYS, payloads, strict=True):
        writer.write(key, payload)
    case.damage(*(writer.file(key) for key in _KEYS))
    found = kind(root, "others" if case.other_weights else "weights").read(_KEYS[0])
    if isinstance(found, str):
        return found
    return RIGHT if found == payloads[0] and not case.other_weights else WRONG


def matrix(root: Path, say: Callable[[str], None]) -> None:
    import vllm

    say(f"{'what happens to a stored block':<50} {'here':<22} vLLM {vllm.__version__}, tier fs")
    for number, case in enumerate(CASES):
        ours, theirs = (outcome(case, kind, root / f"{number}-{kind.__name__}") for kind in (Ours, Theirs))
        say(f"{case.name:<50} {ours:<22} {theirs}")


def reading(root: Path, blocks: int, repeats: int, say: Callable[[str], None]) -> None:
    """One prompt's blocks out of the page cache into host memory, in turn."""
    from vllm.v1.kv_offload.tiering.fs import io

    slots = min(blocks, 113)
    setting = speed.Setting(root, blocks, 36, slots)
    size = setting.pages.block_bytes
    paths = [str(root / "theirs" / f"{number}.bin") for number in range(blocks)]
    memory = memoryview(bytearray(blocks * size))
    memory[:] = os.urandom(size) * blocks
    offsets = [number * size for number in range(blocks)]
    io.batch_store_block(paths, memory, offsets, size, False)
    ours = {verify: speed.Reading(setting, 16, verify=verify) for verify in (False, True)}
    runs: dict[str, Callable[[], float]] = {
        "here, 16 threads, read": ours[False].seconds,
        "here, 16 threads, read and verified": ours[True].seconds,
        "vLLM, a prompt is one job of one thread": lambda: _timed(
            lambda: io.batch_load_block(paths, memory, offsets, size, False)
        ),
    }
    if io.probe_o_direct(str(root)):
        runs["the same past the page cache, its default"] = lambda: _timed(lambda: _direct(io, paths, offsets, size))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            seconds = run()
            if turn:
                taken[name].append(seconds)
    say(f"{blocks} blocks, {blocks * size / 2**30:.2f} GiB, {os.cpu_count()} cores, vLLM's io in C: {io._HAS_FSIO_C}")
    for name, values in taken.items():
        say(spread.row(f"{name:<44}", values))
    for one in ours.values():
        one.close()


def _direct(io: Any, paths: Sequence[str], offsets: Sequence[int], size: int) -> None:
    import mmap

    with mmap.mmap(-1, len(paths) * size) as memory:
        view = memoryview(memory)
        io.batch_load_block(list(paths), view, list(offsets), size, True)
        view.release()


def _timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kv_recovery.other_stores",
        description=__doc__,
        epilog="Example, 20 s: `PYTHONPATH=e2e .venv/bin/python -m kv_recovery.other_stores --speed`.",
    )
    parser.add_argument("--speed", action="store_true", help="measure reading, too")
    parser.add_argument("--blocks", type=int, default=128, help="to read, of 2.36 MB (default: 128)")
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is shown (default: 5)")
    parser.add_argument("--directory", type=Path, help="where to put the files (default: the temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vernal-kv-beside-", dir=arguments.directory) as directory:
        root = Path(directory)
        matrix(root, lambda line: print(line, flush=True))
        if arguments.speed:
            reading(root, arguments.blocks, arguments.repeats, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
