"""Big files that several artifacts have in common, such as a model's weights.

Each artifact is whole in itself: `blobs/<digest>` is one more hard link to a file of it. A blob with no other link
belongs to no artifact any more, and `gc` deletes it: the file system counts the references.
"""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from blake3 import blake3

from vernal_worker.store import fs, layout
from vernal_worker.store.pieces import Piece, hash_all, pieces

TEMPORARY = "."
"""How a link is named that is about to get its place."""


def path(root: Path, size: int, digests: Sequence[str]) -> Path:
    """Where the file of this size with these digests of its pieces is, if the store has it."""
    return root / layout.BLOBS / blake3(f"{size} {' '.join(digests)}".encode()).hexdigest()


def share(
    file: Path, size: int, digests: Sequence[str], root: Path, tick: Callable[[int], None] = lambda _: None
) -> None:
    """Make `file`, of this size and with these digests of its pieces, and the blob of the same content one file.
    `tick` is called now and then with the bytes read, and may raise to give up.

    Raises:
        OSError: the storage cannot be read or written.
    """
    blob = path(root, size, digests)
    fs.make_directory(blob.parent, root)
    new = blob.with_name(f"{TEMPORARY}{fs.unique()}")
    try:
        if _is_sound(blob, size, digests, tick):
            fs.link(blob, new)
            new.replace(file)
            fs.sync(file.parent)
        else:
            fs.link(file, new)
            new.replace(blob)
            fs.sync(blob.parent)
    except FileNotFoundError:
        pass  # collected this moment
    except OSError as error:
        if error.errno != errno.EMLINK:  # as many artifacts have it as the file system can count
            raise
    finally:
        new.unlink(missing_ok=True)


def _is_sound(blob: Path, size: int, digests: Sequence[str], tick: Callable[[int], None]) -> bool:
    """A blob is read before it is trusted: what is shared harms every artifact if it is broken."""
    if not blob.is_file() or blob.stat().st_size != size:
        return False
    tick(0)
    wanted = dict(zip(pieces(blob.name, size), digests, strict=True))
    bad: list[Piece] = []

    def compare(piece: Piece, digest: str) -> None:
        if digest != wanted[piece]:
            bad.append(piece)

    hash_all(blob.parent, list(wanted), compare, threads=None, tick=tick)
    return not bad
