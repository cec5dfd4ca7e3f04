"""How many files and connections this process may have open."""

import contextlib
import os
import resource

WANTED = 65535
"""What `vllm serve` raises the soft limit to."""


def raise_limit() -> int:
    """Raise this process's soft limit of open descriptors to `WANTED`, as far as the hard limit lets it; the limit
    then. Processes that it starts inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def limit() -> int:
    """The soft limit of this process; `WANTED` if there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def in_use() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # in the start path, and Path.iterdir says no more
