"""The usual questions, as data."""

import struct
import zlib
from collections.abc import Mapping
from typing import Any

from engines.row import Question

TOKENS = 32
"""Of an answer."""

LONG = " ".join(
    f"A worker that has served {number} requests need not learn again how to serve." for number in range(20)
)
"""A prompt of more than two blocks of the KV cache (128 tokens each on a CPU), and of more than a sliding window."""


def completion(name: str, prompt: Any = "A worker that has served before", **more: Any) -> Question:
    """Greedy, with the ids of its tokens and their log probabilities, unless told otherwise."""
    shows = more.pop("shows", {})
    body = {
        "model": "tiny", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "logprobs": 3,
        "return_token_ids": True,
    }  # fmt: skip
    whole = {key: value for key, value in (body | more).items() if value is not None}
    return Question(name, "/v1/completions", whole, shows=shows)


def chat(name: str, content: Any = "How does a worker end?", **more: Any) -> Question:
    """A greedy chat."""
    shows: Mapping[str, str] = more.pop("shows", {})
    body = {
        "model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, "temperature": 0,
        "ignore_eos": True, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = {key: value for key, value in (body | more).items() if value is not None}
    return Question(name, "/v1/chat/completions", whole, shows=shows)


GENERATION = (completion("short prompt"), completion("long prompt", LONG), completion("after a long one", "0, 1, 2, 3"))
"""What shows whether an architecture computes what it did."""


def png(colour: int, side: int = 28) -> bytes:
    """A square picture, of a pattern that depends on `colour` (https://www.w3.org/TR/png-3/)."""
    rows = b"".join(
        b"\0" + bytes((x * colour + y * 7 + channel * 50) % 256 for x in range(side) for channel in range(3))
        for y in range(side)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
