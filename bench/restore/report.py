"""What a bench says of its machine, of a checkpoint and of a start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.progress import say
from measure import Start


def line(result: Start) -> str:
    timings = " ".join(f"{name}={seconds:.2f}" for name, seconds in result.timings.items())
    seconds = f"first token {result.first_token:.2f} s, answer {result.answer:.2f} s"
    nvlink = "" if result.nvlink else " without NVLink"
    return f"{result.mode}{nvlink}, {seconds} {result.tokens[:4]} [{timings}]"


def artifact(store: Path) -> dict[str, int]:
    """Bytes of the parts."""
    (current,) = store.glob("artifacts/*/*/current")
    sizes = {
        p.relative_to(current.resolve()).as_posix(): p.stat().st_size
        for p in current.resolve().rglob("*")
        if p.is_file()
    }
    result = {"weights": 0, "images": 0, "other": 0}
    for name, size in sizes.items():
        part = "weights" if name.startswith("weights/") else "images" if "/criu/" in name else "other"
        result[part] += size
    return result


def zero_share(store: Path) -> str:
    """How many of the images' pages hold nothing but zeros."""
    import numpy as np

    parts = []
    for path in sorted(store.glob("artifacts/*/*/current/process/criu/pages-*.img")):
        pages = np.memmap(path, np.uint64).reshape(-1, 512)
        zeros = sum(int((~pages[i : i + 65536].any(axis=1)).sum()) for i in range(0, len(pages), 65536))
        parts.append(f"{path.name} {len(pages) >> 8} MiB, {zeros >> 8} MiB zeros")
    return "; ".join(parts)


def machine() -> dict[str, str]:
    found = {"kernel": os.uname().release, "cores": str(os.cpu_count()), "python": sys.version.split()[0]}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found["gpus"] = subprocess.check_output(query, text=True).strip()
    except OSError:
        found["gpus"] = "none"
    for place in sys.path:
        for path in Path(place or ".").glob("*.dist-info") if Path(place or ".").is_dir() else ():
            if match := re.fullmatch(r"(vllm|torch)-([^-]+)\.dist-info", path.name):
                found.setdefault(match[1], match[2])
    found["criu"] = subprocess.check_output([os.environ["VERNAL_CRIU"], "--version"], text=True).split()[1]
    return found


def look(pod: Any) -> None:
    """Where the memory of each process is, for tuning."""
    for pid, command in pod.processes().items():
        try:
            text = Path(f"/proc/{pid}/smaps").read_text()
        except OSError:
            continue
        kinds: dict[str, int] = {}
        kind, area, areas = "", "", list[tuple[int, str]]()
        for row in text.splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", row):
                parts, area = row.split(maxsplit=5), row
                kind = parts[5] if len(parts) > 5 else "anon"
                kind = kind if kind.startswith(("/dev", "[", "anon", "/memfd")) else "file"
            elif row.startswith("Private_Dirty:"):
                kinds[kind] = kinds.get(kind, 0) + int(row.split()[1])
                areas.append((int(row.split()[1]), area))
        for kib, area in sorted(areas, reverse=True)[:12]:
            if kib > 20_000:
                say(f"       {kib // 1024} MiB {area}")
        top = {k: v // 1024 for k, v in sorted(kinds.items(), key=lambda kv: -kv[1])[:6] if v > 1024}
        say(f"     {pid} {command[:60]!r} private dirty MiB: {top}")
