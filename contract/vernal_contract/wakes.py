"""The schema of `GET /wakes?uid=UID` on a waker's own port: which requests have woken a pool, for traces (design record
0024).
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from vernal_contract import decoding

PATH = "/wakes"
MOST = 64
"""Wakes of one pool that are told of, the newest ones."""
MAX_BYTES = 32 << 10
"""Of an answer: that many need less."""


class Wake(msgspec.Struct, frozen=True):
    """A write that took a pool from no replicas to one.

    Attributes:
        uid: the pool's.
        version: its resourceVersion by this write.
        traceparent: of the waker's span, by W3C Trace Context.
    """

    uid: Annotated[str, msgspec.Meta(max_length=128)]
    version: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    traceparent: Annotated[str, msgspec.Meta(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")]


class _Wakes(msgspec.Struct):
    wakes: Annotated[list[Wake], msgspec.Meta(max_length=MOST)]


def encode(wakes: Iterable[Wake]) -> bytes:
    """The last `MOST` of them."""
    return msgspec.json.encode(_Wakes(list(wakes)[-MOST:]))


def decode(data: bytes) -> list[Wake]:
    """Parse a waker's answer.

    Raises:
        msgspec.DecodeError: not JSON, or (ValidationError) not this schema; the message holds the field's path.
    """
    return decoding.json(data, _Wakes).wakes
