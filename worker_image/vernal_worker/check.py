"""What a doctor says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing looked at. `remedy` says what to do if it is not `ok`."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
