"""How things are printed: tables, colours, sizes, ages, JSON and YAML."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TextIO

import yaml

_COLOURS = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "title": "1"}
_ESCAPE = re.compile(r"\x1b\[[0-9]*m")


class Paint:
    """Colours for a terminal, and none for anything else, with NO_COLOR or with TERM=dumb."""

    def __init__(self, on: bool) -> None:
        self._on = on

    @classmethod
    def of(cls, stream: TextIO) -> "Paint":
        return cls(stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")

    def __call__(self, sort: str, text: str) -> str:
        return f"\x1b[{_COLOURS[sort]}m{text}\x1b[0m" if self._on and text and sort in _COLOURS else text


PLAIN = Paint(False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Left-aligned columns, as kubectl's, three blanks apart."""
    all_rows = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(_ESCAPE.sub("", row[i])) for row in all_rows) for i in range(len(head))]
    return [
        indent
        + "   ".join(
            cell + " " * (width - len(_ESCAPE.sub("", cell))) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in all_rows
    ]


def dump(value: Any, form: str) -> str:
    """JSON or YAML, keys in the order in which they were put."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110).rstrip("\n")


def size(count: int | float | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return "-"
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            break
    return f"{count:.1f} {unit}"


def seconds(value: float | None) -> str:
    """A duration as people read it."""
    if value is None:
        return "-"
    if value < 0.1:
        return f"{value * 1000:.3g} ms"
    if value < 1:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    return age(value)


def age(value: float | None) -> str:
    """As kubectl's AGE."""
    if value is None:
        return "-"
    value = max(0, int(value))
    for unit, length, next_unit, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if value >= 2 * length or (value >= length and unit != "m"):
            rest = (value % length) // small
            return (
                f"{value // length}{unit}{rest}{next_unit}"
                if rest and value < 10 * length
                else f"{value // length}{unit}"
            )
    return f"{value}s"


def when(stamp: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None if there is none."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp() if stamp else None
