"""What `rollback` writes: the spec of an earlier revision over the one that is there.

A ControllerRevision keeps all in the spec that a pod is made of, with defaults, as JSON text; fields that no pod is
made of (replicas, rollout, autoscaling, the checkpoint's retention) are not in it and stay as they are.
"""

import json
from typing import Any

from vernal_contract import names

from kubectl_vernal.errors import NotFoundError
from kubectl_vernal.output import age, table
from kubectl_vernal.read import World, labels, name
from kubectl_vernal.views.redact import redact

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


def spec_of(pool: Object, revision: Object) -> Object:
    """`pool`'s spec as it was at that revision, in all that pods are made of.

    Fields that were not set are null in what is kept, and left out here; in podTemplate a null says that a field of the
    pod goes, and stays.
    """
    kept = json.loads(revision["data"]["spec"])
    want: Object = {field: value if field == "podTemplate" else _set(value) for field, value in kept.items()}
    return _with({field: value for field, value in want.items() if value is not None}, pool["spec"], _NOT_IN_PODS)


def _set(value: Any) -> Any:
    if isinstance(value, dict):
        return {field: _set(found) for field, found in value.items() if found is not None}
    return [_set(item) for item in value] if isinstance(value, list) else value


def _with(want: Object, live: Object, fields: Object) -> Object:
    """`want`, and of `live` the fields that no revision keeps."""
    out = dict(want)
    for field, inner in fields.items():
        if inner is True:
            out.pop(field, None)
            if field in live:
                out[field] = live[field]
        elif field in live or field in want:
            out[field] = _with(want.get(field) or {}, live.get(field) or {}, inner)
    return out


def patch(pool: Object, spec: Object) -> list[Object]:
    """The JSON patch that writes it over the version that was read. A merge patch could not write a null."""
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": pool["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/spec", "value": spec},
    ]


def changes(have: Object, want: Object, prefix: str = "spec") -> list[str]:
    """One line a field that becomes another; what looks like a secret is not shown."""
    out: list[str] = []
    for field in sorted(have.keys() | want.keys()):
        old, new = have.get(field), want.get(field)
        if isinstance(old, dict) and isinstance(new, dict):
            out += changes(old, new, f"{prefix}.{field}")
        elif old != new:
            out.append(f"{prefix}.{field}: {_show(field, old)} becomes {_show(field, new)}")
    return out


def _show(field: str, value: object) -> str:
    return "nothing" if value is None else json.dumps(redact({field: value})[field])


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
