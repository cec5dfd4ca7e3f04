"""What a doctor says."""

import msgspec


class Check(msgspec.Struct, frozen=True):
    """One thing looked at. `remedy` says what to do if it is not `ok`."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
