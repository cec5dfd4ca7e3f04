"""What process 1 was at when its container was killed, as far as the pod's next container can tell.

A container that runs out of memory is killed as a whole: nothing is left that could write down why. Without this its
next one would do the same again, for ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def marked(path: Path, what: str) -> Iterator[None]:
    """`path`, in a directory that outlives the container, says `what` as long as the block takes, and from then on if
    nobody comes to its end. Without room for it nothing is said."""
    with suppress(OSError):
        path.write_text(what)
    try:
        yield
    except Exception:
        _remove(path)
        raise
    _remove(path)


def taken(path: Path) -> str | None:
    """What a container was at that was killed. Once: after that it may be tried again."""
    try:
        return path.read_text()
    except OSError:
        return None
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
