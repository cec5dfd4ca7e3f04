"""What is known about the content of big files outside of the store, a model's weights above all.

To read 16 GB takes longer than a thaw, so the digest of a file is written down under what the file system says about
it: a file whose inode, size and times are as they were has the content that it had. A record is only as good as the
store: whoever can write there runs code in every worker anyway.
"""

from contextlib import suppress
from pathlib import Path

import msgspec
from blake3 import blake3
from vernal_contract import decoding

from vernal_worker.store import fs, layout

KEPT_SECONDS = 90 * 86400.0
"""For so long a record is kept."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """`content`: digest of all bytes. `samples`: of a few of them, to be compared at each look."""

    content: str
    samples: str
    file: str = ""  # where it was seen, for people


class Contents:
    """The records in the store under `root`. Never raises: without them files are read again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / layout.CONTENTS

    def get(self, key: str) -> Known | None:
        """`key`: everything that must be as it was."""
        with suppress(OSError, msgspec.DecodeError):
            return decoding.json(self._path(key).read_bytes(), Known)
        return None

    def put(self, key: str, known: Known) -> None:
        path = self._path(key)
        new = path.with_name(f".{fs.unique()}")
        with suppress(OSError):
            fs.make_directory(self._directory, self._root)
            try:
                fs.write_new(new, msgspec.json.encode(known))
                new.replace(path)
            finally:
                new.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._directory / blake3(key.encode()).hexdigest()
