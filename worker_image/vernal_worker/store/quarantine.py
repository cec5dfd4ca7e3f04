"""When an artifact is given up, and when a new one is made in its place.

Beside the artifacts of a key is one small file that says which generation was given up and how many were in a row. The
first is replaced at once; if its successors cannot be thawed either, there is a reason that making another does not
mend, and each next try is twice as far away. A thaw that works forgives everything.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import About, about

from vernal_worker.store import failures, fs
from vernal_worker.store.failures import Failure
from vernal_worker.store.layout import Key

NAME = "quarantine.json"
FIRST_DELAY = 600.0
LONGEST_DELAY = 86400.0
_MOST_ROUNDS = 1000
"""More are no news, and others may write what is read here."""


class Quarantine(msgspec.Struct, frozen=True):
    """`generation` is not thawed any more. `message`: for people, with what failed; `seconds_left`: until a new
    checkpoint may be made."""

    generation: str
    message: str
    seconds_left: float


class Record(msgspec.Struct, frozen=True, kw_only=True):
    generation: str  # the last one that was given up
    rounds: int  # how many were, in a row
    token: str = ""  # whose this is, where it is written on condition


def following(before: Record | None, generation: str, token: str = "") -> Record:
    """What is noted down of `generation` once it is given up."""
    rounds = 1 if before is None else min(before.rounds, _MOST_ROUNDS) + 1
    return Record(generation=generation, rounds=rounds, token=token)


def counted(found: Sequence[Failure]) -> int:
    """How much failed thaws speak against their artifact: each that is about the artifact, and each node on which
    something else went wrong once. Storage that was gone and GPUs that were full do not count."""
    own = sum(about(failure.reason) is About.ARTIFACT for failure in found)
    return own + len({failure.node for failure in found if about(failure.reason) is About.NODE})


def delay(rounds: int) -> float:
    """Seconds from the time that the last of `rounds` generations was given up until another may be made."""
    return 0.0 if rounds <= 1 else min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(rounds - 2, 16))


def look(key: Key, generation: str, attempts: int) -> Quarantine | None:
    """Whether `generation` is given up after so many failures; the first who sees that it is notes it down.

    Raises:
        OSError: the storage cannot be read.
    """
    found = failures.load(key, generation)
    if counted(found) < attempts:
        return None
    path = key.directory / NAME
    record = _read(key)
    if record is None or record.generation != generation:
        record = following(record, generation)
        with suppress(OSError):  # full or read-only: then no new one can be made either
            new = path.with_name(f".{fs.unique()}")
            fs.write_new(new, msgspec.json.encode(record))
            new.rename(path)
    left = delay(record.rounds)
    if left:
        with suppress(OSError):
            left = remaining(left, fs.clock(key.directory) - path.stat().st_mtime)
    return said(generation, found, record.rounds, left)


def remaining(delay: float, age: float) -> float:
    """Seconds of `delay` that are left after `age`, which is negative where the storage's clock was set back."""
    return max(0.0, delay - max(0.0, age))


def said(generation: str, found: Sequence[Failure], rounds: int, left: float) -> Quarantine:
    """`generation` is given up for what was `found`; after `rounds` in a row the next is made in `left` seconds."""
    last = found[-1]
    where = f"last on {last.worker}: {last.reason} in stage {last.stage}: {last.message}"
    again = "the next cold start makes a new checkpoint"
    if left:
        then = datetime.now(UTC) + timedelta(seconds=left)
        again = f"{rounds} in a row were given up, a new one is made after {then:%Y-%m-%dT%H:%M:%SZ}"
    return Quarantine(generation, f"{generation} failed {counted(found)} times, {where}; {again}", left)


def forgive(key: Key, generation: str) -> None:
    """`generation` was thawed: forget its failures, and those of its predecessors.

    Raises:
        OSError: the storage cannot be written.
    """
    (key.directory / NAME).unlink(missing_ok=True)
    fs.remove_tree(key.failures(generation))


def _read(key: Key) -> Record | None:
    try:
        return decoding.json((key.directory / NAME).read_bytes(), Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
