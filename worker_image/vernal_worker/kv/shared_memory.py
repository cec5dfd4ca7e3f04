"""Memory that other processes can have too, by its descriptor."""

import mmap
import os


class SharedMemory:
    """`size` bytes, zero, none of which take room before they are used. Closed, nothing of it is left here once nobody
    has a view of it."""

    def __init__(self, size: int) -> None:
        """Raises: OSError: there is no room for it."""
        self.descriptor: int | None = os.memfd_create("vernal-kv")
        try:
            os.ftruncate(self.descriptor, size)
            self.bytes: mmap.mmap | None = mmap.mmap(self.descriptor, size)
        except BaseException:
            os.close(self.descriptor)
            raise

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = self.bytes = None
