"""What is known about big files outside of the store (`store.contents`), for all workers of a bucket: without it each
would read a model's weights whole to know which checkpoint is its own."""

import msgspec
from blake3 import blake3
from vernal_contract import decoding

from vernal_worker.bucket import keys
from vernal_worker.bucket.objects import Objects
from vernal_worker.store.contents import Contents, Known
from vernal_worker.store.errors import StoreError


class BucketContents(Contents):
    """The records in the bucket, and in the store where they were read. Never raises; a bucket that fails once is not
    asked again."""

    def __init__(self, objects: Objects, local: Contents) -> None:
        self._objects, self._local = objects, local
        self._gone = False

    def get(self, key: str) -> Known | None:
        if (known := self._local.get(key)) is not None or self._gone:
            return known
        try:
            read = self._objects.get(_name(key), "find")
            known = None if read is None else decoding.json(read.data, Known)
        except StoreError:
            self._gone = True
        except msgspec.MsgspecError:
            return None
        if known is not None:
            self._local.put(key, known)
        return known

    def put(self, key: str, known: Known) -> None:
        self._local.put(key, known)
        if not self._gone:
            try:
                self._objects.put(_name(key), msgspec.json.encode(known), "find")
            except StoreError:
                self._gone = True


def _name(key: str) -> str:
    return f"{keys.CONTENTS}/{blake3(key.encode()).hexdigest()}"
