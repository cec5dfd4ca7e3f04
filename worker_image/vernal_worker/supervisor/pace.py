"""How long a thaw or a freeze may take: as long as its size makes it, a thaw as long as the storage keeps up. Pure."""

BASE_SECONDS = 120.0
"""For all of it but reading."""

LEAST_RATE = 100e6
"""Bytes a second. Storage that is slower is slower than a cold start."""

JUDGED_AFTER = 20.0
"""Seconds after which the rate that was seen counts. Before, caches and mounts may only be waking up."""


def allowance(size: int, configured: float | None) -> float:
    """Seconds for a thaw of `size` bytes; `configured`: what the pool says, if it does."""
    return configured if configured is not None else BASE_SECONDS + size / LEAST_RATE


def for_freeze(size: int, configured: float, left: float) -> float:
    """Seconds for each step of a freeze of `size` bytes: what the pool says, or more for what is big. `left`: seconds
    that the cold start has left of its own, which whoever waits for the worker allows, too."""
    return max(configured, min(allowance(size, None), configured + left))


def hopeless(done: int, size: int, elapsed: float, left: float) -> str | None:
    """Why `size` bytes, of which `done` were read in `elapsed` seconds, will not be there in `left` more; None if they
    may be."""
    if elapsed < JUDGED_AFTER or done >= size:
        return None
    rate = done / elapsed
    if rate * left >= size - done:
        return None
    needed = f"{(size - done) / rate:.0f} s" if rate else "for ever"
    return (
        f"{done} of {size} bytes read in {elapsed:.0f} s ({rate / 1e6:.1f} MB/s): the rest would take {needed}, "
        f"and {left:.0f} s are left"
    )
