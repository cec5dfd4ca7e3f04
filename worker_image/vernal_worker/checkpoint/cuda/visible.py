"""Which GPUs of a container a worker is to use, where CUDA_VISIBLE_DEVICES says so: pure.

The driver freezes with a process every GPU of its container, also those that CUDA_VISIBLE_DEVICES hides from it, and a
restore must say for each of them which one takes its place. So the helper and an engine that may be frozen see all of
them, the selected ones first: an engine takes the first ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

VARIABLE = "CUDA_VISIBLE_DEVICES"


class Selection(NamedTuple):
    """What the container's variable means there."""

    given: str | None
    """The variable as the container has it; None if it has not."""

    every: str | None
    """A value with which CUDA lists every GPU, the selected ones first; None for its own order. `given` where that
    cannot be said, because it names parts of a GPU (MIG) or no GPU of this container."""

    selected: int
    """How many GPUs are selected."""


def select(given: str | None, uuids: Sequence[str]) -> Selection:
    """What `given` selects of the container's GPUs, whose UUIDs are like "GPU-8d62…" in any order.

    Like CUDA, it ends at the first entry that is none, and a GPU that is named twice makes the whole invalid.
    """
    if given is None:
        return Selection(None, None, len(uuids))
    names = [name.strip() for name in given.split(",")]
    numbers = [str(number) for number in range(len(uuids))]
    known = [uuid.upper() for uuid in uuids] if names[0].upper().startswith("GPU-") else numbers
    chosen: list[str] = []
    for name in names:
        found = [one for one in known if (one == name if known is numbers else one.startswith(name.upper()))]
        if len(found) != 1:
            break
        chosen += found
    if not chosen or len(set(chosen)) < len(chosen):
        return Selection(given, given, len(names) if "MIG" in given.upper() else 0)
    every = [*chosen, *(one for one in known if one not in chosen)]
    return Selection(given, ",".join(every if known is numbers else map(_as_cuda_writes, every)), len(chosen))


def _as_cuda_writes(uuid: str) -> str:
    return uuid[:4] + uuid[4:].lower()
