"""What `rollback` writes: the spec of an earlier revision, as a merge patch over the one that is there.

A ControllerRevision keeps all in the spec that a pod is made of, with defaults, as JSON text; fields that no pod is
made of (replicas, rollout, autoscaling, the checkpoint's retention) are not in it and stay as they are.
"""

import json
from typing import Any

from vernal_contract import names

from kubectl_vernal.errors import NotFoundError
from kubectl_vernal.output import age, table
from kubectl_vernal.read import World, labels, name

Object = dict[str, Any]

_NOT_IN_PODS: Object = {
    "replicas": True,
    "rollout": True,
    "autoscaling": True,
    "disruptionBudget": True,
    "checkpoint": {"startup": True, "retention": True},
}
"""Fields that no revision keeps; a test compares them with the operator's."""


def revisions(world: World) -> list[Object]:
    """A pool's revisions, the newest first."""
    return sorted(world.of("controllerrevisions"), key=lambda one: -int(one.get("revision", 0)))


def called(revision: Object) -> str:
    return labels(revision).get(names.LABEL_REVISION, name(revision))


def choose(world: World, pool: Object, wanted: str) -> Object:
    """The ControllerRevision called `wanted`, or with "" the newest that is not what the spec asks for.

    Raises:
        NotFoundError: there is none.
    """
    status = pool.get("status") or {}
    there = revisions(world)
    candidates = [one for one in there if called(one) != status.get("updateRevision")]
    proven = [one for one in candidates if called(one) == status.get("currentRevision")]
    chosen = [one for one in there if called(one) == wanted] if wanted else (proven or candidates)
    if chosen:
        return chosen[0]
    known = ", ".join(called(one) for one in there) or "none"
    what = f"no revision {wanted!r}" if wanted else "no revision before this one"
    raise NotFoundError(
        f"pool {name(pool)} has {what}; kept are: {known} (`kubectl vernal rollback {name(pool)} --list`)"
    )


def patch(pool: Object, revision: Object) -> Object:
    """The JSON merge patch that brings `pool`'s spec to that revision; {} if it is there."""
    kept = json.loads(revision["data"]["spec"])
    return _merge(_without(pool["spec"], _NOT_IN_PODS), kept)


def _without(value: Object, fields: Object) -> Object:
    out = {}
    for field, found in value.items():
        inner = fields.get(field)
        if inner is True:
            continue
        out[field] = _without(found, inner) if isinstance(inner, dict) and isinstance(found, dict) else found
    return out


def _merge(have: Object, want: Object) -> Object:
    """RFC 7386: what to write over `have` to get `want`. What is null in `want` is not there."""
    out: Object = {field: None for field in have if want.get(field) is None}
    for field, value in want.items():
        if value is None or have.get(field) == value:
            continue
        old = have.get(field)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := _merge(old, value):
                out[field] = inner
        else:
            out[field] = value
    return out


def changes(have: Object, patched: Object, prefix: str = "spec") -> list[str]:
    """One line a field that the patch writes."""
    out: list[str] = []
    for field, value in sorted(patched.items()):
        path, old = f"{prefix}.{field}", have.get(field)
        if isinstance(value, dict) and isinstance(old, dict):
            out += changes(old, value, path)
        elif value is None:
            out.append(f"{path}: {_show(old)} is removed")
        else:
            out.append(f"{path}: {_show(old)} becomes {_show(value)}")
    return out


def _show(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)


def listing(world: World, pool: Object) -> list[str]:
    status = pool.get("status") or {}
    rows = []
    for one in revisions(world):
        content = json.loads(one["data"]["spec"])
        is_what = [
            word
            for word, field in (("wanted", "updateRevision"), ("proven", "currentRevision"))
            if status.get(field) == called(one)
        ]
        rows.append(
            [called(one), content["image"], content["model"]["name"], ", ".join(is_what) or "-", age(world.age(one))]
        )
    return table(["REVISION", "IMAGE", "MODEL", "IS", "AGE"], rows)
