"""Keys of blocks: a hash chain over the prompt, so that a key stands for a block and all that came before it.

vLLM has such hashes of its own, but what goes into them and the seed of the first differ between versions and, in some,
between processes; a key on shared storage must mean the same to every worker.
"""

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

KEY_BYTES = 32
TAG_BYTES = 8
"""A key ends with the first bytes of the key before it, so that names in the store tell which block follows which."""

_ROOT = "vernal 2025 kv block key v2"  # BLAKE3's key derivation context: a constant that nothing else uses


@dataclass(frozen=True)
class Feature:
    """A multimodal item of a prompt: its placeholders all have the same token id, so its content must be in the key.

    Attributes:
        content: digest of the item (`vernal_worker.kv.media`).
        offset: position of the first placeholder in the prompt, in tokens.
        length: number of placeholders.
    """

    content: str
    offset: int
    length: int


@dataclass(frozen=True)
class Salt:
    """What keeps apart prompts with equal tokens.

    Attributes:
        cache_salt: the request's own salt (vLLM's `cache_salt`), for isolation between users.
        adapter: identity of the LoRA adapter that the request runs with.
        features: multimodal items in prompt order.
        epoch: of an engine whose weights may have changed since its files were read: nobody else's.
    """

    cache_salt: str | None = None
    adapter: str | None = None
    features: tuple[Feature, ...] = ()
    epoch: str | None = None


def block_keys(tokens: Sequence[int], block_tokens: int, salt: Salt = Salt()) -> list[bytes]:
    """One key for each full block of `tokens`."""
    root = [salt.cache_salt, salt.adapter] + ([salt.epoch] if salt.epoch is not None else [])
    key = blake3(_canonical(root), derive_key_context=_ROOT).digest()
    keys: list[bytes] = []
    for start in range(0, len(tokens) - block_tokens + 1, block_tokens):
        end = start + block_tokens
        hasher = blake3(key)
        hasher.update(array("q", tokens[start:end]).tobytes())
        touching = [f for f in salt.features if f.offset < end and start < f.offset + f.length]
        if touching:
            hasher.update(_canonical([[f.content, f.offset - start, f.length] for f in touching]))
        key = hasher.digest(KEY_BYTES - TAG_BYTES) + key[:TAG_BYTES]
        keys.append(key)
    return keys


def _canonical(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
