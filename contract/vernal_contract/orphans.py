"""What a janitor's Job says in its termination message of artifacts that no VLLMCheckpoint is of."""

import msgspec

from vernal_contract import decoding

MOST = 20
"""That are named: a termination message has 4,096 bytes."""


class Orphans(msgspec.Struct, kw_only=True, rename="camel"):
    """`named`: the first ones, as identity/host tuple, the latter's first 16 digits."""

    count: int
    bytes: int
    named: list[str] = []


def encode(found: Orphans) -> bytes:
    return msgspec.json.encode(found)


def decode(text: str) -> Orphans | None:
    """None if it is something else, such as the message of an older worker image."""
    try:
        return decoding.json(text, Orphans)
    except msgspec.MsgspecError:
        return None
