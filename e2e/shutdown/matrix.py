"""`python -m shutdown matrix`: both columns, one table."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.progress import say

from shutdown import alone, kills, kv, ours
from shutdown.promises import Findings, markdown, table
from shutdown.workers import Workers, workers


def run(work: str | None, half: str | None, only: str | None, file: str | None) -> int:
    """Exit status 0 if every promise holds for Vernal."""
    began = time.monotonic()
    plain, own = Findings(), Findings()
    with workers(work) as made:
        if half != "alone":
            made.make_checkpoint()
            for each in ours.SCENARIOS:
                _one(f"vernal: {each.__name__}", only, partial(each, made.thawed), own, made)
            _one("vernal: signal_in_thaw", only, partial(ours.signal_in_thaw, made.start, made.store), own, made)
            _one("vernal: kv", only, partial(kv.ours, made), own, made)
        if half != "vernal":
            for name, scenario in {**alone.SCENARIOS, "kv": kv.alone}.items():
                _one(f"vllm serve: {name}", only, partial(scenario, made), plain, made)
    print("\n" + table(plain.found, own.found))
    if file:
        Path(file).write_text(markdown(plain.found, own.found))
    broken = own.broken()
    held = f"{len(own.found) - len(broken)} of {len(own.found)} observations of Vernal hold"
    say(f"{held}, {len(plain.broken())} of {len(plain.found)} of vLLM alone do not; {time.monotonic() - began:.0f} s")
    return 1 if broken or not (own.found or half == "alone") else 0


def run_kills(work: str | None, count: int, seed: int) -> int:
    with workers(work) as made:
        made.make_checkpoint()
        report = kills.run(made.thawed, made.start, made.store, count, seed, say)
    print("\n" + report.render())
    return 0 if report.ok else 1


def _one(name: str, only: str | None, scenario: Callable[[Findings], None], found: Findings, made: Workers) -> None:
    """Run it, and say what was found at once."""
    if only is not None and only not in name:
        return
    began, before = time.monotonic(), len(found.found)
    try:
        scenario(found)
    finally:
        made.end()
    say(f"{name} ({time.monotonic() - began:.0f} s)")
    for finding in found.found[before:]:
        say(f"    {'kept' if finding.holds else 'BROKEN'}: {finding.promise}: {finding.seen}")
