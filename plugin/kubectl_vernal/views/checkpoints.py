"""What `checkpoints` says."""

from typing import Any

from kubectl_vernal.output import PLAIN, Paint, age, size, table
from kubectl_vernal.read import CHECKPOINTS, World, condition, key, name, namespace

Object = dict[str, Any]


def view(world: World) -> list[Object]:
    return [row(world, checkpoint) for checkpoint in sorted(world.of(CHECKPOINTS), key=key)]


def row(world: World, checkpoint: Object) -> Object:
    spec, status = checkpoint["spec"], checkpoint.get("status") or {}
    state, why = _state(checkpoint)
    return {
        "namespace": namespace(checkpoint),
        "name": name(checkpoint),
        "model": spec["model"],
        "state": state,
        "why": why,
        "generation": status.get("generation"),
        "sizeBytes": status.get("sizeBytes"),
        "sharedBytes": status.get("sharedBytes"),
        "restores": status.get("restores", 0),
        "failures": status.get("restoreFailures", 0),
        "usedBy": status.get("usedBy") or [],
        "claim": _storage(spec["storage"]),
        "identity": spec["identity"],
        "host": _host(spec.get("host") or {}),
        "ageSeconds": round(world.age(checkpoint)),
    }


def _storage(storage: Object) -> str:
    """The claim, or the bucket's URL."""
    if "objectStore" in storage:
        return str(storage["objectStore"]["url"])
    return "/".join(filter(None, (storage["claimName"], storage.get("subPath"))))


def _state(checkpoint: Object) -> tuple[str, str]:
    if "deletionTimestamp" in checkpoint["metadata"]:
        return "Deleting", "its files are being removed, or a pool still uses it"
    for kind in ("Quarantined", "Failed"):
        found = condition(checkpoint, kind)
        if found.get("status") == "True":
            return kind, f"{found['reason']}: {found['message']}"
    ready = condition(checkpoint, "Ready")
    if ready.get("status") == "True":
        return "Ready", ""
    return "Pending", str(ready.get("message", "the operator has not looked at it yet"))


def _host(host: Object) -> str:
    gpu = f"{host.get('gpuCount')} x {host['gpuProduct']}" if host.get("gpuProduct") else "no GPU"
    driver = f", driver {host['gpuDriver']}" if host.get("gpuDriver") else ""
    return f"{host.get('architecture', '?')}, kernel {host.get('kernel', '?')}, {gpu}{driver}"


def text(rows: list[Object], *, wide: bool = False, namespaces: bool = False, paint: Paint = PLAIN) -> list[str]:
    sort = {"Ready": "good", "Quarantined": "bad", "Failed": "bad"}
    head = ["NAME", "MODEL", "STATE", "SIZE", "SHARED", "THAWED", "FAILED", "USED BY", "AGE"]
    lines = table(
        [*(["NAMESPACE"] if namespaces else []), *head, *(["CLAIM", "HOST", "IDENTITY"] if wide else [])],
        [
            [
                *([row["namespace"]] if namespaces else []),
                row["name"],
                row["model"],
                paint(sort.get(row["state"], "warn"), row["state"]),
                size(row["sizeBytes"]),
                size(row["sharedBytes"]),
                str(row["restores"]),
                str(row["failures"]),
                ",".join(row["usedBy"]) or "-",
                age(row["ageSeconds"]),
                *([row["claim"], row["host"], row["identity"][:16]] if wide else []),
            ]
            for row in rows
        ],
    )
    reasons = [f"{row['name']}: {row['why']}" for row in rows if row["why"]]
    return [*lines, *(["", *reasons] if reasons else [])]
