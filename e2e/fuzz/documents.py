"""Strategies for documents: valid ones made wrong, as values and as text."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**40,
    0.5,
    -0.0,
    1e18,
    1e308,
    -1e308,
)
TEXTS = (
    "", "\0", "a\0b", ".", "..", "/", "../../outside", "a/../../outside", "/outside", "//outside", "\ud800", "\udcff",
    "\n", "\u0660", "null", "x" * 300, "x" * 5000, "\u00e9" * 200, "${x}", "-", "1e999999999",
)  # fmt: skip
"""Paths that escape, NUL, half of a surrogate pair, what is too long for a name, what is nearly a number."""

_DEEP = "\ue000"
"""A text that begins with it stands for so many lists, each in the one before: Python's json cannot write them."""

_deep = re.compile(f"{_DEEP}([0-9]{{1,5}})")
_deep_as_json = re.compile(rb'"\\ue000(\d+)"')

plain = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.text(max_size=5)
values = plain | st.recursive(
    plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
"""Anything that JSON has."""

deep = st.sampled_from((30, 300, 900, 5000, 50_000)).map(lambda levels: f"{_DEEP}{levels}")


def nested(levels: int) -> list[Any]:
    """So many lists, each in the one before."""
    made: list[Any] = []
    for _ in range(levels - 1):
        made = [made]
    return made


@st.composite
def changed(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """`document` with up to `most` places changed: taken away, there twice, renamed, of another type, deep."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(made))
        if not places:
            return draw(values)
        parent, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(("remove", "twice", "rename", "value", "value", "like", "like", "deep", "swap"))):
            case "remove":
                del parent[key]
            case "twice" if isinstance(parent, list):
                parent.insert(draw(st.integers(0, len(parent))), copy.deepcopy(parent[key]))
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from(TEXTS) | st.text(max_size=5))] = parent.pop(key)
            case "deep":
                parent[key] = draw(deep)
            case "like" if type(parent[key]) in (int, float, str):
                parent[key] = draw(st.sampled_from(TEXTS if isinstance(parent[key], str) else NUMBERS))
            case "swap":
                other, place = draw(st.sampled_from(places))
                parent[key] = copy.deepcopy(other[place])
            case _:
                parent[key] = draw(values)
    return made


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and every key of it, from the outermost on."""
    pending = [value]
    while pending:
        container = pending.pop(0)
        keys = container.items() if isinstance(container, dict) else enumerate(container)
        for key, inner in list(keys):
            yield container, key
            if isinstance(inner, dict | list):
                pending.append(inner)


def text(document: Any) -> bytes:
    """As JSON, with what `deep` stands for, and halves of surrogate pairs as they can only be written: escaped."""
    return _deep_as_json.sub(
        lambda found: b"[" * int(found[1]) + b"]" * int(found[1]), json.dumps(document, separators=(",", ":")).encode()
    )


def unfolded(document: Any) -> Any:
    """The same as Python's values: with what `deep` stands for."""
    if isinstance(document, str) and (found := _deep.fullmatch(document)):
        return nested(int(found[1]))
    if isinstance(document, dict):
        return {key: unfolded(value) for key, value in document.items()}
    if isinstance(document, list):
        return [unfolded(value) for value in document]
    return document


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with bytes cut off, taken out, written twice, changed, or put in, such as what is no UTF-8."""
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(made)))
        end = min(len(made), start + draw(st.integers(0, 64)))
        match draw(st.sampled_from(("cut", "remove", "twice", "put", "change"))):
            case "cut":
                del made[start:]
            case "remove":
                del made[start:end]
            case "twice":
                made[start:start] = made[start:end]
            case "put":
                made[start:start] = draw(
                    st.sampled_from((b"\xff", b"\xed\xa0\x80", b"\0", b"[" * 3000)) | st.binary(max_size=9)
                )
            case "change" if start < len(made):
                made[start] ^= draw(st.integers(1, 255))
    return bytes(made)


def texts(document: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Texts of changed documents, and damaged ones, and bytes that never were one."""
    written = document.flatmap(changed).map(text)
    return written | written.flatmap(damaged) | document.map(text).flatmap(damaged) | st.binary(max_size=200)
