"""What the loader asks of a device that copies beside the engine's work."""

from collections.abc import Sequence
from typing import Any, Protocol

from vernal_worker.kv.loads import Run
from vernal_worker.kv.slots import Fence


class CopyStream(Protocol):
    """Copies into the KV cache that a device does beside the engine's work.

    `prepare`, `copy` and `digests` are called by one thread; the others by the engine's, between the works that it
    gives the device, and `end` not during `copy`.
    """

    hashes: bool
    """Whether the device hashes what it copies. Then nobody else does, and `digests` tells."""

    def mark(self) -> None:
        """A step begins. What the device was given so far may still use blocks that the step hands out to loads; its
        own work does not."""

    def begin(self) -> None:
        """Copies from now on come after all that the device was given before the last mark, or, without one, so far."""

    def prepare(self, block_ids: Sequence[int]) -> Any:
        """Tell the device where a load's blocks are, once; for `Run.target`."""

    def copy(self, runs: Sequence[Run]) -> Fence:
        """Enqueue copies from slots into the KV cache."""

    def digests(self, slots: range) -> bytes:
        """BLAKE3 of what was copied from these slots, one after the other, once the fence of that copy was passed."""

    def end(self) -> None:
        """What the device is given from now on comes after all copies so far."""
