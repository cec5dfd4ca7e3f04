"""The content of a multimodal item, as the engine computes with it.

vLLM's own identifier of an item will not do: it may be a counter (where no cache needs it) or a client's text, and the
options that the processor was started with are not in it.
"""

import json
from collections.abc import Iterator
from typing import Any

import torch
from blake3 import blake3

_ELSEWHERE = "address"
"""vLLM's shared-memory cache has an item of this name in place of the content."""


def content(item: Any) -> str | None:
    """Digest of a processed item (vLLM's `MultiModalKwargsItem`): names, types, shapes and bytes of all that it holds;
    in hexadecimal. None if the content is not here, or holds what has no bytes of its own."""
    if item is None or _ELSEWHERE in item:
        return None
    hasher = blake3()
    try:
        for name in sorted(item):
            for part in _parts(item[name].data):
                hasher.update(len(part).to_bytes(8, "little"))
                hasher.update(part)
            hasher.update(name.encode())
    except TypeError:
        return None
    return hasher.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    """Raises: TypeError: `value` is neither tensors nor numbers, nor lists of these."""
    if isinstance(value, torch.Tensor):
        yield _header(str(value.dtype), list(value.shape))
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, list | tuple):
        yield _header("list", [len(value)])
        for entry in value:
            yield from _parts(entry)
    elif isinstance(value, bool | int | float | str):
        yield _header(type(value).__name__, [value])
    else:
        raise TypeError(f"{type(value).__name__} has no bytes")


def _header(kind: str, of: list[Any]) -> bytes:
    return json.dumps([kind, *of]).encode()
