"""What is tried: prompts, faults and what each must lead to."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vernal_worker.kv.faults import Fault, Kind, Where, Which

ANSWER_TOKENS = 12
_VOCABULARY = range(4, 512)  # of the tiny model, without its special tokens


@dataclass(frozen=True)
class Case:
    """One batch of requests to a running engine.

    Attributes:
        fault: what goes wrong; None for a run in which nothing does.
        expected: kinds of load failures of which one at least must be counted; none if it is empty.
        recomputes: tokens must be computed that were to be loaded.
        differs: the answers must differ from the baseline: the control run.
        failed: how many requests must end with an error, with policy `fail`.
        prompts: name of the prompts in `prompts`.
        stored: the prompts are in the store.
    """

    name: str
    fault: Fault
    expected: frozenset[str] = frozenset()
    recomputes: bool = False
    differs: bool = False
    failed: int = 0
    prompts: str = "shared"
    stored: bool = True

    @property
    def mode(self) -> str:
        return {True: "async", False: "sync", None: "either"}[self.fault.load_async]


def prompts(block_tokens: int) -> dict[str, list[list[int]]]:
    """Prompts as token ids, by name of the set.

    `shared` has two pairs with a common prefix each, as conversations have, `apart` four that share nothing, and
    `fresh` is like `apart` and in no store.
    """
    draw = random.Random(6)

    def text(blocks: float) -> list[int]:
        return draw.choices(_VOCABULARY, k=int(blocks * block_tokens))

    long, short = text(5), text(3)
    return {
        "shared": [long + text(0.7), long + text(1.2), short + text(0.3), short + text(1.6)],
        "apart": [text(3.5) for _ in range(4)],
        "fresh": [text(3.5) for _ in range(4)],
    }


# What the connector must make of each fault; see `vernal_worker.kv.blockfile.Failure`.
_FAILURES: dict[Kind, frozenset[str]] = {
    Kind.VANISHED: frozenset({"missing"}),
    Kind.SHORT: frozenset({"size"}),
    Kind.FLIPPED_BIT: frozenset({"corrupt", "format", "swapped"}),
    Kind.SWAPPED: frozenset({"swapped"}),
    Kind.UNREADABLE: frozenset({"unreadable"}),
    Kind.PERMISSION: frozenset({"permission"}),
    Kind.SLOW: frozenset({"slow"}),
}


_SLOW: dict[str, Any] = {"delay_seconds": 1.8, "load_timeout_seconds": 1.0}


def recompute_cases() -> list[Case]:
    """With policy `recompute`: every kind of fault, sync and async, in different requests and blocks."""
    cases: list[Case] = []
    for load_async in (False, True):
        cases.append(Case("no fault", Fault(load_async=load_async)))
        cases.append(Case("missing", Fault(kind=Kind.MISSING, load_async=load_async, which=Which.ALL)))
        cases += [
            Case(
                str(kind), Fault(kind=kind, load_async=load_async, **_SLOW if kind is Kind.SLOW else {}), expected, True
            )
            for kind, expected in _FAILURES.items()
        ]
        flipped = _FAILURES[Kind.FLIPPED_BIT]
        for where in (Where.FIRST, Where.LAST, Where.ALL):
            fault = Fault(kind=Kind.FLIPPED_BIT, load_async=load_async, where=where)
            cases.append(Case(f"flipped_bit, {where} block", fault, flipped, True))
        nth = Fault(kind=Kind.FLIPPED_BIT, load_async=load_async, which=Which.NTH, n=3)
        cases.append(Case("flipped_bit, 3rd request", nth, flipped, True, prompts="apart"))
        for seed in (1, 2):
            fault = Fault(kind=Kind.FLIPPED_BIT, load_async=load_async, which=Which.RANDOM, probability=0.6, seed=seed)
            cases.append(Case(f"flipped_bit, p=0.6, seed {seed}", fault, flipped, True, prompts="apart"))
        full = Fault(kind=Kind.STORE_FULL, load_async=load_async, which=Which.ALL)
        cases.append(Case("store_full", full, prompts="fresh", stored=False))
    return cases


def guarded_cases() -> list[Case]:
    """For an engine that would not recover from synchronous loads, whose connector is told to load so."""
    fault = Fault(kind=Kind.FLIPPED_BIT, where=Where.FIRST, which=Which.ALL)
    return [Case("flipped_bit, load_async false", fault, _FAILURES[Kind.FLIPPED_BIT], True)]


def control_cases() -> list[Case]:
    """A connector that keeps its failures to itself: if these answers were equal, the comparison would say nothing."""
    return [
        Case(
            "control: not reported",
            Fault(kind=Kind.VANISHED, where=Where.ALL, report=False, load_async=load_async),
            frozenset({"missing"}),
            differs=True,
        )
        for load_async in (False, True)
    ]


def fail_cases() -> list[Case]:
    """With policy `fail`: as many requests end with an error as the fault hits, and the others do not notice."""
    flipped = _FAILURES[Kind.FLIPPED_BIT]
    cases: list[Case] = []
    for load_async in (False, True):
        for n in (1, 3):
            fault = Fault(kind=Kind.FLIPPED_BIT, load_async=load_async, which=Which.NTH, n=n)
            cases.append(Case(f"policy fail, request {n}", fault, flipped, failed=1, prompts="apart"))
        fault = Fault(kind=Kind.FLIPPED_BIT, load_async=load_async, where=Where.FIRST, which=Which.ALL)
        cases.append(Case("policy fail, all requests", fault, flipped, failed=4, prompts="apart"))
    return cases


@dataclass
class Run:
    """What came of a case: token ids and finish reason of each request, wall time, what the connector counted."""

    answers: list[list[int]]
    reasons: list[str]
    seconds: float
    counters: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Run":
        return cls(**value)

    def counted(self, name: str, labels: Sequence[str] = ()) -> float:
        keys = [f"{name}:{label}" for label in labels] or [name]
        return sum(self.counters.get(key, 0) for key in keys)
