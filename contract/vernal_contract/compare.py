"""Field-by-field comparison of identities and host tuples, as the JSON objects that travel.

What a newer worker or operator wrote has fields that are not known here: as JSON they are compared all the same, by the
kubectl plugin in the same words as by a worker.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def differences(wanted: Json, found: Json) -> list[str]:
    """One line per field that differs: `field: artifact has X, this host has Y`, sorted by field. Fields of fields are
    named with dots.
    """
    return list(_differences("", wanted, found))


def misfits(artifact: Json, here: Json) -> list[str]:
    """Why a process that was frozen on host tuple `artifact` cannot be thawed on `here`, one line a field.

    More CPU features and more mounts than it uses do no harm; everything else must be equal.
    """
    more = {
        name: [item for item in artifact.get(name) or () if item in (here.get(name) or ())]
        for name in ("cpuFeatures", "mounts")
        if name in artifact
    }
    return differences(artifact, {**here, **more})


def _differences(prefix: str, left: Json, right: Json) -> Iterator[str]:
    for key in sorted(left.keys() | right.keys()):
        name, a, b = f"{prefix}{key}", left.get(key, _ABSENT), right.get(key, _ABSENT)
        if a is not _ABSENT and b is not _ABSENT and _canonical(a) == _canonical(b):  # as they travel: 1 is not True
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(f"{name}.", a, b)
        elif isinstance(a, list) and isinstance(b, list) and (_only(a, b) or _only(b, a)):
            yield f"{name}: only in the artifact {_only(a, b)}, only on this host {_only(b, a)}"
        else:
            yield f"{name}: artifact has {_show(a)}, this host has {_show(b)}"


_ABSENT = object()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _only(these: Sequence[Any], those: Sequence[Any]) -> list[Any]:
    other = set(map(_canonical, those))
    return sorted((item for item in these if _canonical(item) not in other), key=_canonical)


def _show(value: Any) -> str:
    return "nothing" if value is _ABSENT else repr(value)
