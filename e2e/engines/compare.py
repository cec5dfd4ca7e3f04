"""Whether two workers said the same: pure."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engines.row import GPU, Answer, Asked, Row

NOISE = 1e-4
"""How far two log probabilities or two elements of a vector may be apart, as a part of the larger one, or absolutely
below 1, in float32 on a CPU: sums of some hundred products in another order (threads, batches) differ by 1e-6 to 1e-5
of their value. Another weight, or a lost block of the KV cache, changes these models' log probabilities by tenths.
Texts, token ids and counts have no noise."""

_NOISE_ON_GPU = {"float32": 2e-3, "bfloat16": 2e-2}
"""The sequences of one request may be in different batches there, for which kernels differ. Triton multiplies float32
as TF32, with 11 bits of mantissa, bfloat16 has 8: four units of the last place."""


def noise(device: str, dtype: str) -> float:
    """As `NOISE`, of an engine. Raises KeyError for a dtype that no row has."""
    return _NOISE_ON_GPU[dtype] if device == GPU else NOISE


VOLATILE = frozenset({"created", "created_at", "completed_at", "id", "request_id", "system_fingerprint"})
"""Keys whose values are new in every answer of every engine."""

_SHOWN = 60
_MOST_FOUND = 3


@dataclass(frozen=True)
class Compared:
    """How much was: `exact` texts, ids and counts, `near` numbers within noise."""

    exact: int = 0
    near: int = 0

    def __add__(self, other: "Compared") -> "Compared":
        return Compared(self.exact + other.exact, self.near + other.near)


def differences(before: Any, after: Any, at: str = "", noise: float = NOISE) -> Iterator[str]:
    """Where two JSON values differ, each with its path and both values; nothing if they are the same but for noise and
    `VOLATILE`. A NaN is never right."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            if key not in VOLATILE:
                yield from _member(before, after, key, at, noise)
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{at}: {len(before)} elements, after the thaw {len(after)}"
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from differences(one, other, _join(at, str(number)), noise)
    elif not _same(before, after, noise):
        yield f"{at}: {_short(before)}, after the thaw {_short(after)}"


def _member(before: Mapping[str, Any], after: Mapping[str, Any], key: str, at: str, noise: float) -> Iterator[str]:
    if key not in before or key not in after:
        where = "after the thaw" if key in after else "before the freeze"
        yield f"{_join(at, key)}: only {where}"
    else:
        yield from differences(before[key], after[key], _join(at, key), noise)


def _same(one: Any, other: Any, noise: float) -> bool:
    if _number(one) and _number(other) and float in (type(one), type(other)):
        return bool(one == other or abs(one - other) <= noise * max(1.0, abs(one), abs(other)) < math.inf)
    return type(one) is type(other) and bool(one == other)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def size(content: Any) -> Compared:
    """How many values `differences` looks at in an answer."""
    if isinstance(content, Mapping):
        return sum((size(value) for key, value in content.items() if key not in VOLATILE), Compared())
    if isinstance(content, list):
        return sum(map(size, content), Compared())
    return Compared(near=1) if isinstance(content, float) else Compared(exact=1)


def found(
    row: Row, before: Asked, after: Asked, cannot: frozenset[str] = frozenset(), *, noise: float = NOISE
) -> list[str]:
    """All that speaks against a row; see `Row` for what must hold.

    Args:
        cannot: questions that plain vLLM does not answer either; what they would show is not looked for.
        noise: as `NOISE`, of this engine.
    """
    result: list[str] = []
    for question in row.questions:
        if question.name not in cannot:
            one, other = before.answers[question.name], after.answers[question.name]
            said = [f"{question.name}: {text}" for text in _answered(one, other, question.shows, noise)]
            result += said[:_MOST_FOUND]
            if (more := len(said) - _MOST_FOUND) > 0:
                result.append(f"{question.name}: {more} more")
    for one_name, other_name in row.unlike:
        if not {one_name, other_name} & cannot:
            result += _alike(one_name, other_name, before, "before the freeze", noise)
            result += _alike(one_name, other_name, after, "after the thaw", noise)
    if not cannot:  # or they counted less
        for name in row.counters:
            result += _counted(name, before.counters.get(name, 0.0), after.counters.get(name, 0.0))
    return result


def _answered(before: Answer, after: Answer, shows: Mapping[str, str], noise: float) -> Iterator[str]:
    for when, answer in (("before the freeze", before), ("after the thaw", after)):
        if answer.status != 200:
            yield f"{when}: {'no answer' if answer.status == 0 else f'HTTP {answer.status}'}: {message(answer)}"
        else:
            for path, pattern in shows.items():
                if not re.fullmatch(pattern, str(value := look_up(answer.content, path)), re.DOTALL):
                    yield f"{when}: {path} is {_short(value)}, which does not match {pattern}"
    if before.status == after.status == 200:
        yield from differences(before.content, after.content, noise=noise)


def _alike(one: str, other: str, asked: Asked, when: str, noise: float) -> list[str]:
    """Two answers that should differ and do not."""
    there = differences(said(asked.answers[one]), said(asked.answers[other]), noise=noise)
    same = not any(True for _ in there)
    return [f"{one} and {other} are answered alike {when}"] if same else []


def said(answer: Answer) -> Any:
    """The part of an answer that the model's weights decide, not the request's words, such as the model's name."""
    content = answer.content
    if isinstance(content, Mapping):
        return next((content[key] for key in ("choices", "data", "text", "results") if key in content), content)
    return content


def _counted(name: str, before: float, after: float) -> list[str]:
    if before != after:
        return [f"{name}: {before:g}, after the thaw {after:g}"]
    return [] if before > 0 else [f"{name} is 0: nothing of this kind happened"]


def look_up(content: Any, path: str) -> Any:
    """The value at a path such as `choices.0.text`; None where there is nothing."""
    for key in path.split("."):
        if isinstance(content, list) and key.isdecimal() and int(key) < len(content):
            content = content[int(key)]
        elif isinstance(content, Mapping):
            content = content.get(key)
        else:
            return None
    return content


def message(answer: Answer) -> str:
    """What an error says, in one line."""
    text = look_up(answer.content, "error.message") or answer.content
    return " ".join(str(text).split())[:200]


def counters(exposition: str, names: tuple[str, ...]) -> dict[str, float]:
    """The sums over all labels of counters in Prometheus's text format
    (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
    result = dict.fromkeys(names, 0.0)
    for line in exposition.splitlines():
        name = re.split(r"[{ ]", line, maxsplit=1)[0]
        if name in result:
            result[name] += float(line.rsplit(" ", 1)[1])
    return result


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
