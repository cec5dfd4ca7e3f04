"""What a row of the table is made of: data, and nothing that runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Body = Mapping[str, Any]

CPU, GPU = "cpu", "gpu"
DEVICES = (CPU, GPU)


@dataclass(frozen=True)
class Question:
    """One request. They are asked one after the other, in order, so that both workers compute the same batches."""

    name: str
    path: str
    body: Body | Callable[[], Body]
    """Of the POST; a function where making it takes more than the standard library."""
    file: Callable[[], bytes] | None = None
    """Sent with the body as a form, under the name `file`."""
    shows: Mapping[str, str] = field(default_factory=dict)
    """What makes the answer one of this kind: a path in it, such as `choices.0.text`, and the pattern that the whole
    value must match, before the freeze and after the thaw."""


@dataclass(frozen=True)
class Row:
    """One kind of engine: a model, vLLM's arguments, and what to ask."""

    name: str
    model: str
    """A key of `kinds.KINDS`."""
    questions: tuple[Question, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """vLLM's, in the spelling of a pool's `engineArgs`, beside those of every row."""
    on_gpu: Mapping[str, Any] = field(default_factory=dict)
    """More of them, on a GPU: such as another dtype where vLLM's kernels there have no float32."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The engine's."""
    devices: tuple[str, ...] = DEVICES
    """Where vLLM has such an engine at all; on another device the row says so."""
    unlike: tuple[tuple[str, str], ...] = ()
    """Pairs of questions that must be answered differently, such as an adapter's and the base's."""
    counters: tuple[str, ...] = ()
    """Metrics of vLLM whose growth while the questions are asked must be equal, and more than nothing."""


@dataclass(frozen=True)
class Answer:
    """To one question. `status` is HTTP's, 0 if there was no answer; `content` is JSON, or text if it is none."""

    status: int
    content: Any


@dataclass(frozen=True)
class Asked:
    """All that one worker said: answers by the questions' names, and how far the row's counters went."""

    answers: Mapping[str, Answer]
    counters: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """What became of a row."""

    row: str
    device: str
    frozen: str = "-"
    thawed: str = "-"
    compared: str = "-"
    questions: int = 0
    found: tuple[str, ...] = ()
    """What differs or failed; empty if nothing did."""
    cannot: tuple[str, ...] = ()
    """What plain vLLM cannot do here either, in its own words."""

    @property
    def ok(self) -> bool:
        return not self.found
