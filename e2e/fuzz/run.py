"""Rounds of examples until the time is up. What fails is shown with its seed, and with how to run it again."""

import faulthandler
import importlib.util
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
from hypothesis import settings

from fuzz import targets as known

ROUND = 500
"""Examples of one seed."""

_SAY_SECONDS = 30.0
_FRAMES = 20  # of a traceback that are shown, the innermost ones
_HANG_SECONDS = 1800.0
"""A round that takes longer hangs: the process says where, and ends."""


@dataclass
class Found:
    """What became of a target. `failures`: texts for people."""

    examples: int = 0
    rounds: int = 0
    failures: list[str] = field(default_factory=list)


def run(
    targets: Sequence[str], minutes: float, seed: int | None = None, rounds: int | None = None, only: str | None = None
) -> int:
    """Exit status: 1 if a target failed."""
    settings.register_profile("long", deadline=None, database=None, max_examples=ROUND, print_blob=False)
    settings.load_profile("long")
    logging.disable(logging.CRITICAL)  # what is refused is told there, thousands of times
    failed = False
    for target in targets:
        path = known.ROOT / known.TARGETS[target][0]
        found = fuzz(target, path, minutes * 60, random.randrange(2**31) if seed is None else seed, rounds, only)
        failed = failed or bool(found.failures)
        verdict = f"{len(found.failures)} FAILED" if found.failures else "nothing found"
        _say(f"{target}: {found.examples} examples in {found.rounds} rounds, {verdict}")
    return 1 if failed else 0


def fuzz(
    target: str, path: Path, seconds: float, seed: int, rounds: int | None = None, only: str | None = None
) -> Found:
    """All tests of a file in turns, each round with the next seed, until `seconds` are over or so many rounds; a test
    that has failed is left out from then on."""
    found = Found()
    tests = {name: _counted(test, found) for name, test in _tests(_load(path)).items() if only in (None, name)}
    if not tests:
        raise SystemExit(f"{path} has no test that is called {only}" if only else f"{path} has no hypothesis test")
    began = said = time.monotonic()
    while tests and (found.rounds < rounds if rounds is not None else time.monotonic() < began + seconds):
        now = seed + found.rounds
        for name, test in list(tests.items()):
            faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
            try:
                hypothesis.seed(now)(test)()
            except Exception:
                del tests[name]
                found.failures.append(name)
                again = f"--target {target} --test {name} --seed {now} --rounds 1"
                _say(
                    f'{traceback.format_exc(limit=-_FRAMES)}\n{target}: {name} failed. Again: make fuzz FUZZ="{again}"'
                )
            finally:
                faulthandler.cancel_dump_traceback_later()
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                spent = f"{(said - began) / 60:.1f} of {seconds / 60:g} min"
                _say(f"{target}: {spent}, {found.examples} examples, seed {now}, {len(found.failures)} failed")
        found.rounds += 1
    return found


def _load(path: Path) -> ModuleType:
    """As pytest would: with the helpers of its folder at hand."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _tests(module: ModuleType) -> dict[str, Callable[[], None]]:
    return {name: test for name, test in vars(module).items() if getattr(test, "is_hypothesis_test", False)}


def _counted(test: Any, found: Found) -> Callable[[], None]:
    """The same test, whose examples are counted."""
    inner = test.hypothesis.inner_test

    def count(*arguments: Any, **named: Any) -> Any:
        found.examples += 1
        return inner(*arguments, **named)

    test.hypothesis.inner_test = count
    run: Callable[[], None] = test
    return run


def _say(text: str) -> None:
    print(text, flush=True)
