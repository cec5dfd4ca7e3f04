"""The GPUs of this container as the kernel driver describes them, without opening a device or NVML: a
process that holds `/dev/nvidia*` open cannot be frozen, and loading NVML takes longer than reading four
small files."""

import re
from pathlib import Path
from typing import NamedTuple

DRIVER = Path("/proc/driver/nvidia")
DEV = Path("/dev")


class Gpus(NamedTuple):
    product: str | None = None  # e.g. "NVIDIA H200"; of several kinds all names, with commas
    count: int = 0  # type: ignore[assignment]  # instead of a tuple's method
    driver: str | None = None  # e.g. "580.159.04"
    uuids: tuple[str, ...] = ()  # like "GPU-8d62…", in no particular order


def gpus(driver: Path = DRIVER, dev: Path = DEV) -> Gpus:
    """What this container was given: a GPU counts if its device node is here (the host's others are in
    /proc too)."""
    products, uuids = [], []
    for information in sorted(driver.glob("gpus/*/information")):
        fields = _fields(information.read_text())
        if (dev / f"nvidia{fields.get('Device Minor', '')}").exists():
            products.append(fields.get("Model", "unknown"))
            uuids.append(fields.get("GPU UUID", "unknown"))
    if not products:
        return Gpus()
    return Gpus(", ".join(sorted(set(products))), len(products), _driver(driver), tuple(uuids))


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _driver(driver: Path) -> str | None:
    """From e.g. `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build ...`."""
    try:
        found = re.search(r"NVRM version:.*?\s(\d+\.\d+(\.\d+)?)\s", (driver / "version").read_text())
    except OSError:
        return None
    return found[1] if found else None
