"""The artifact that is published: a few files of every kind that a worker's has, told by a number."""

import random

from blake3 import blake3
from vernal_contract.identity import HostTuple, IdentityInputs

IDENTITY = IdentityInputs(
    image_id="sha256:1", engine_args={}, engine_env={}, model="matrix", weights="InImage", versions={}
)
HOST = HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.18")
WEIGHTS = "weights.safetensors"
"""Kept once for all artifacts that have it (`store.blobs`), so it is the same in each."""


def files(number: int) -> dict[str, bytes]:
    """What artifact `number` has, by relative path."""
    own = random.Random(number).randbytes
    return {
        "process/criu/pages-1.img": own(300_000),
        "process/criu/core-1.img": own(5000),
        "process/process.json": own(700),
        WEIGHTS: random.Random(0).randbytes(200_000),
        "oracle.json": own(60),
        "empty": b"",
    }


def digest(data: bytes) -> str:
    """Of a file that is one piece."""
    return blake3(data).hexdigest()
