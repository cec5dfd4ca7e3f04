"""The GPUs of this container as the kernel driver describes them, without opening a device or NVML: a
process that holds `/dev/nvidia*` open cannot be frozen, and loading NVML takes longer than reading four
small files. Imports little: what begins first in a start asks."""

import os
from functools import cache
from typing import NamedTuple

DRIVER = "/proc/driver/nvidia"
DEV = "/dev"


class Gpus(NamedTuple):
    product: str | None = None  # e.g. "NVIDIA H200"; of several kinds all names, with commas
    count: int = 0  # type: ignore[assignment]  # instead of a tuple's method
    driver: str | None = None  # e.g. "580.159.04"
    uuids: tuple[str, ...] = ()  # like "GPU-8d62…", in no particular order


@cache
def gpus(driver: str = DRIVER, dev: str = DEV) -> Gpus:
    """What this container was given: a GPU counts if its device node is here (the host's others are in
    /proc too). Looked at once: while a process initialises the driver, others wait for it to read these files."""
    products, uuids = [], []
    for name in _names(f"{driver}/gpus"):
        if (text := _read(f"{driver}/gpus/{name}/information")) is None:
            continue
        fields = _fields(text)
        if os.access(f"{dev}/nvidia{fields.get('Device Minor', '')}", os.F_OK):
            products.append(fields.get("Model", "unknown"))
            uuids.append(fields.get("GPU UUID", "unknown"))
    if not products:
        return Gpus()
    version = _version(_read(f"{driver}/version") or "")
    return Gpus(", ".join(sorted(set(products))), len(products), version, tuple(uuids))


def _names(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries)
    except OSError:
        return []


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(text: str) -> str | None:
    """From e.g. `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build ...`."""
    line = text.partition("NVRM version:")[2].partition("\n")[0]
    return next((word for word in line.split() if "." in word and word.replace(".", "").isdigit()), None)
