"""What saving costs: throughput of prompts that nobody has seen, with the role `kv_both` and without a connector.

Two engines with the same prompts take turns, so that what the machine does meanwhile hits both. Before each turn
storage has taken all of the last one.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from kv_recovery import spread
from kv_recovery.cases import Run
from kv_recovery.child import Child, connector

_OUTCOMES = ("written", "dropped", "full", "failed")


@dataclass(frozen=True)
class Setting:
    """
    Attributes:
        engine: arguments of vllm.LLM.
        vocabulary: token ids to draw from.
        prompts: how many at a time.
        tokens: length of each.
        rounds: turns of each engine.
    """

    engine: dict[str, Any]
    environment: dict[str, str]
    vocabulary: range
    prompts: int
    tokens: int
    rounds: int = 8


class Measurement:
    """`plain` and `saving` are engines for a `with` statement."""

    def __init__(self, setting: Setting, work: Path, say: Callable[[str], None]) -> None:
        self._setting, self._say = setting, say
        self._draw = Random(21)
        self._store = work / "saving-store"
        kv = connector(self._store, role="kv_both")
        self.plain = Child(setting.engine, None, work / "saving-none.log", setting.environment)
        self.saving = Child(setting.engine, kv, work / "saving-both.log", setting.environment)

    def compare(self) -> float:
        """Prints both; returns throughput with saving as a part of that without.

        Raises:
            AssertionError: nothing was saved.
        """
        self._turn()  # the first run of a shape is slower
        turns = [self._turn() for _ in range(self._setting.rounds)]
        plain, saving = ([turn[which].seconds for turn in turns] for which in (0, 1))
        saves = {name: sum(turn[1].counted("saves", [name]) for turn in turns) for name in _OUTCOMES}
        if not saves["written"]:
            raise AssertionError(f"no block was saved: {saves}")
        ratios = [without / with_saves for without, with_saves in zip(plain, saving, strict=True)]
        ratio = statistics.median(ratios)
        self._say(f"{self._setting.prompts} prompts of {self._setting.tokens} tokens, one token each, default options:")
        self._say(spread.row("no connector", plain))
        self._say(spread.row("kv_both, saving", saving))
        self._say(
            f"saving costs {(1 - ratio) * 100:.1f} % of throughput (median of {len(ratios)} pairs, "
            f"{(1 - max(ratios)) * 100:.1f} to {(1 - min(ratios)) * 100:.1f} %); blocks: "
            + ", ".join(f"{count:.0f} {name}" for name, count in saves.items())
        )
        return ratio

    def _turn(self) -> tuple[Run, Run]:
        """Both engines, one after the other, with the same new prompts; the store is empty before and after."""
        setting = self._setting
        prompts = [self._draw.choices(setting.vocabulary, k=setting.tokens) for _ in range(setting.prompts)]
        runs = self.plain.run(prompts, 1), self.saving.run(prompts, 1)
        for block in self._store.glob("*/*/*.kv"):
            block.unlink()
        return runs
