"""Reading what the API server sends, however deep the objects in it are nested.

Kubernetes keeps a custom resource of 10,000 levels where its schema leaves a field free, and msgspec reads as many as
Python's stack has room for. So one object of somebody's would keep everything else from being read. What is deeper than
any use is cut off: what reads the object finds it too deep still (`api.parse`), and says so.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec
from vernal_contract import decoding

_KEPT = 3 * decoding.LEVELS
"""Levels: an object that is refused for its depth is so in a list, too."""
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{}]')


def decoder(kind: Any) -> Callable[[bytes | msgspec.Raw], Any]:
    """A function that reads values of this type, if need be without what is nested too deeply.

    Its function raises:
        msgspec.DecodeError: it is no such JSON.
    """
    decode = decoding.ready(kind).decode

    def read(data: bytes | msgspec.Raw) -> Any:
        with decoding.told():
            try:
                return decode(data)
            except RecursionError:
                return decode(cut(bytes(data), _KEPT))

    return read


def cut(data: bytes, levels: int) -> bytes:
    """The same JSON with null for each list and object that is nested deeper than that."""
    parts: list[bytes] = []
    depth = start = 0
    for token in _TOKENS.finditer(data):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth == levels + 1:
                parts += [data[start : token.start()], b"null"]
        elif token[0] in (b"]", b"}"):
            if depth == levels + 1:
                start = token.end()
            depth -= 1
    return b"".join([*parts, data[start:]])
