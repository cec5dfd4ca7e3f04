#!/usr/bin/env python3
"""Tables and one waterfall of what run.py found.

`python3 bench/restore/chart.py RESULTS.json... WATERFALL.svg`
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

PHASES = {
    "criu": ("CRIU", "#3b7dd8"),
    "cuda_restore": ("CUDA restore", "#7ac142"),
    "weights_wait": ("waiting for weights", "#e2574c"),
    "wake": ("mapping weights and KV cache", "#f2a33a"),
    "canary": ("canary", "#8e5bb5"),
    "rest": ("all else: interpreter, identity, listening, HTTP", "#c9ced6"),
}
BESIDE = {
    "weights": ("weights are read and verified", "#1d3f72"),
    "memory": ("memory is filled: of processes with a GPU", "#6b8e23"),
    "memory_rest": ("of the others", "#9acd32"),
}
PLACES = {**dict.fromkeys(PHASES, (0, 18)), "weights": (18, 6), "memory": (25, 6), "memory_rest": (25, 6)}
"""From the top of a row, and how high."""


def phases(entry: dict[str, Any]) -> dict[str, float]:
    """Seconds of each phase up to the first token."""
    timings = entry["timings"]
    known = {name: timings.get(name, 0.0) for name in ("criu", "cuda_restore", "weights_wait", "wake", "canary")}
    return {**known, "rest": max(0.0, entry["first_token"] - sum(known.values()))}


def table(results: dict[str, Any]) -> str:
    head = (
        "| model, weights | artifact | cold start | freeze | thaw, warm: median (all) | on another GPU |"
        " from huge pages | thaw, dropped: s | bytes / disk rate |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for name, run in results["runs"].items():
        if "artifact" not in run:
            continue  # it was ended before
        size = sum(run["artifact"].values()) / 1e9
        cold, freeze = run["cold"]["first_token"], run["cold"]["freeze"]["seconds"]
        dropped = ", ".join(f"{entry['first_token']:.2f}" for entry in run["dropped"]) or "-"
        floor = f"{size * 1e9 / run['disk_read']:.2f}" if "disk_read" in run else "-"
        rows.append(
            f"| {name} | {size:.1f} GB | {cold - freeze:.1f} | {freeze:.1f} "
            f"| {spread(run['thaws'])} | {spread(run.get('other_gpu', []))} | {spread(run.get('warm', []))} "
            f"| {dropped} | {floor} |"
        )
    return head + "\n".join(rows)


def spread(thaws: list[dict[str, Any]]) -> str:
    """Median and all of the seconds to the first token."""
    seconds = [entry["first_token"] for entry in thaws]
    return f"**{statistics.median(seconds):.2f}** ({', '.join(f'{s:.2f}' for s in seconds)})" if seconds else "-"


def thaws(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Of each row, those with a warm page cache and the weights outside."""
    outside = {name.removesuffix("-External"): run for name, run in results["runs"].items() if "-InImage" not in name}
    kinds = {"thaws": "", "other_gpu": ", other GPUs", "warm": ", huge pages"}
    return {f"{name}{kind}": run[key] for name, run in outside.items() for key, kind in kinds.items() if run.get(key)}


def laid(entry: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Phases with their begin and end, seconds from exec; of a worker that does not tell when, one after the other."""
    if begun := entry.get("begun"):
        timings = entry["timings"]
        shown = [(name, begun[name], begun[name] + timings[name]) for name in (*PHASES, *BESIDE) if name in begun]
        return [("rest", 0.0, entry["first_token"]), *shown]
    found, at = [], 0.0
    for name, seconds in phases(entry).items():
        found.append((name, at, at + seconds))
        at += seconds
    return found


def waterfall(found: dict[str, dict[str, Any]]) -> str:
    """Of the middle thaw of each row; by the names of the files. What goes on beside is drawn below it."""
    rows = []
    for file, results in found.items():
        for name, entries in thaws(results).items():
            middle = sorted(entries, key=lambda entry: float(entry["first_token"]))[len(entries) // 2]
            rows.append((f"{name} ({file})", middle["first_token"], laid(middle)))
    scale, left, height = 500 / max(seconds for _, seconds, _ in rows), 400, 38
    parts = []
    for number, (name, seconds, row) in enumerate(rows):
        y = 30 + number * height
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{name}</text>')
        for phase, begin, end in row:
            words, colour = {**PHASES, **BESIDE}[phase]
            top, high = PLACES[phase]
            parts.append(
                f'<rect x="{left + begin * scale:.1f}" y="{y + top}" width="{(end - begin) * scale:.1f}" '
                f'height="{high}" fill="{colour}"><title>{words}: {begin:.2f} to {end:.2f} s</title></rect>'
            )
        parts.append(f'<text x="{left + seconds * scale + 5:.1f}" y="{y + 14}">{seconds:.2f} s</text>')
    y = 40 + len(rows) * height
    for number, (words, colour) in enumerate([*PHASES.values(), *BESIDE.values()]):
        at, line = left + number % 2 * 330, y + number // 2 * 20
        parts.append(f'<rect x="{at}" y="{line}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{at + 18}" y="{line + 11}">{words}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1070" height="{y + 110}" '
        'font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="white"/>'
        '<text x="8" y="18">Supervisor exec to first token</text>' + "".join(parts) + "</svg>\n"
    )


def main() -> None:
    *sources, target = map(Path, sys.argv[1:])
    stems = [source.stem for source in sources]
    found = {
        source.stem if stems.count(source.stem) == 1 else str(source): json.loads(source.read_text())
        for source in sources
    }
    if not any(thaws(results) for results in found.values()):
        raise SystemExit(f"no thaws in {', '.join(found)}")
    target.write_text(waterfall(found))
    for file, results in found.items():
        print(file, results["machine"])
        print(table(results))
        for name, run in results["runs"].items():
            if unverified := run.get("unverified"):
                checked = statistics.median(entry["first_token"] for entry in run["thaws"])
                trusted = statistics.median(entry["first_token"] for entry in unverified)
                cost = (checked / trusted - 1) * 100
                print(f"{name}: digests cost {cost:.1f} % (median {checked:.2f} s, without {trusted:.2f} s)")


if __name__ == "__main__":
    main()
