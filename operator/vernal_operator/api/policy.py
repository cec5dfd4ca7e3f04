"""The allowlist of `api.overlay` in CEL, for the chart's ValidatingAdmissionPolicy."""

import json
import re
from collections.abc import Iterator
from typing import Any

from vernal_contract import names

from vernal_operator.api.overlay import ANNOTATIONS, NOT_LISTED, OURS, POD, REFUSALS, ROOT, WHY, WORKER, Fields, Step

Policy = dict[str, Any]
_Path = tuple[Step, ...]


def overlay_policy() -> Policy:
    """`variables` and `validations` of the policy's spec. `object` is a pool."""
    overlay = "has(object.spec.podTemplate) && has(object.spec.podTemplate.spec) ? object.spec.podTemplate.spec : {}"
    worker = (Step("containers", True, name=names.CONTAINER_WORKER),)
    others = {id(fields) for _, fields in _objects((), POD)}  # which are looked at in every container
    return {
        "variables": [
            {"name": "overlay", "expression": overlay},
            {"name": "why", "expression": json.dumps(WHY, sort_keys=True)},
        ],
        "validations": [
            *(_ours("labels", pattern, why) for pattern, why in OURS.items()),
            *(_ours("annotations", pattern, why) for pattern, why in ANNOTATIONS.items()),
            *(_named(path) for path, fields in _objects((), POD) if fields.named),
            *(_allowed(path, fields) for path, fields in _objects((), POD)),
            *(_allowed(path, fields) for path, fields in _objects(worker, WORKER) if id(fields) not in others),
            *(
                _validation(path, refusal.cel, f"LABEL + {json.dumps(f' {refusal.said}')}")
                for refusal in REFUSALS
                for path in refusal.paths
            ),
        ],
    }


def _ours(field: str, pattern: str, why: str) -> Policy:
    """Labels and annotations that are not the pool's to set, beside the overlay."""
    there = f"has(object.spec.podTemplate) && has(object.spec.podTemplate.metadata.{field})"
    ours = f"object.spec.podTemplate.metadata.{field}.filter(k, k.matches('{pattern}'))"
    said = json.dumps(f" cannot be set: {why}")
    return {
        "expression": f"!({there} && {ours}.size() > 0)",
        "messageExpression": f"'spec.podTemplate.metadata.{field}: ' + {ours}.join(', ') + {said}",
    }


def _objects(path: _Path, fields: Fields) -> Iterator[tuple[_Path, Fields]]:
    """Every object of the table, with the way to it."""
    yield path, fields
    for name, below in fields.fields.items():
        if below is not None:
            yield from _objects((*path, Step(name, below.each)), below)


def _allowed(path: _Path, fields: Fields) -> Policy:
    foreign = f"!(k in {json.dumps(sorted(fields.fields))})"
    why = f"(k in variables.why ? variables.why[k] : {json.dumps(NOT_LISTED)})"
    said = f"it.filter(k, {foreign}).map(k, LABEL + '.' + k + ' cannot be set: ' + {why}).join('; ')"
    return _validation(path, f"it.exists(k, {foreign})", said)


def _named(path: _Path) -> Policy:
    return _validation(path, "!has(it.name) || it.name == ''", "LABEL + '.name is missing'")


def _validation(path: _Path, wrong: str, said: str) -> Policy:
    """What must not be true of `it`, the object at the end of the path, and what is said then of `LABEL`, its name."""
    return {
        "expression": f"!({_exists('variables.overlay', path, wrong)})",
        "messageExpression": _say("variables.overlay", f"'{ROOT}'", path, wrong, said),
    }


def _exists(at: str, path: _Path, wrong: str) -> str:
    if not path:
        return _of(wrong, at)
    step, rest = path[0], path[1:]
    there = f"has({at}.{step.field}) && {at}.{step.field} != null"
    if not step.each:
        return f"{there} && ({_exists(f'{at}.{step.field}', rest, wrong)})"
    entry = f"e{len(path)}"
    return f"{there} && {at}.{step.field}.exists({entry}, {_entry(entry, step, rest, wrong)})"


def _entry(entry: str, step: Step, rest: _Path, wrong: str) -> str:
    inner = _exists(entry, rest, wrong)
    if step.name:
        return f"has({entry}.name) && {entry}.name == '{step.name}' && ({inner})"
    return f"!(has({entry}.name) && {entry}.name == '{step.but}') && ({inner})" if step.but else inner


def _say(at: str, label: str, path: _Path, wrong: str, said: str) -> str:
    if not path:
        return _of(said, at).replace("LABEL", label)
    step, rest = path[0], path[1:]
    if not step.each:
        return _say(f"{at}.{step.field}", f"{label} + '.{step.field}'", rest, wrong, said)
    entry = f"e{len(path)}"
    inner = f"{label} + '.{step.field}[' + (has({entry}.name) ? string({entry}.name) : '') + ']'"
    chosen = f"{at}.{step.field}.filter({entry}, {_entry(entry, step, rest, wrong)})"
    return f"{chosen}.map({entry}, {_say(entry, inner, rest, wrong, said)}).join('; ')"


def _of(expression: str, at: str) -> str:
    """An expression about `it`, of the object at a place."""
    return re.sub(r"\bit\.", f"{at}.", expression)
