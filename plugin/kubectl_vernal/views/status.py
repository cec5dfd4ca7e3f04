"""What `status` says: a pool and all that belongs to it."""

from collections.abc import Iterable
from typing import Any

from kubectl_vernal.output import PLAIN, Paint, age, seconds, size, table, when
from kubectl_vernal.read import CHECKPOINTS, POOLS, World, condition, key, name, namespace
from kubectl_vernal.views import pods as podview
from kubectl_vernal.views.checkpoints import row as checkpoint_row

Object = dict[str, Any]


def view(world: World) -> list[Object]:
    """All pools that were read, by namespace and name."""
    return [_pool(world, pool) for pool in sorted(world.of(POOLS), key=key)]


def all_ready(pools: Iterable[Object]) -> bool:
    return all(pool["ready"] and not pool["degraded"] for pool in pools)


def _pool(world: World, pool: Object) -> Object:
    spec, status = pool["spec"], pool.get("status") or {}
    is_ready, degraded = condition(pool, "Ready"), condition(pool, "Degraded")
    looked = status.get("observedGeneration") == pool["metadata"].get("generation")
    reference = status.get("checkpoint")
    found = [
        checkpoint
        for checkpoint in world.of(CHECKPOINTS)
        if reference and (namespace(checkpoint), name(checkpoint)) == (namespace(pool), reference["name"])
    ]
    return {
        "namespace": namespace(pool),
        "name": name(pool),
        "model": spec["model"]["name"],
        "image": spec["image"],
        "replicas": spec.get("replicas", 1),
        "readyReplicas": status.get("readyReplicas", 0),
        "restored": status.get("restoredReplicas", 0),
        "cold": status.get("coldStartedReplicas", 0),
        "ready": is_ready.get("status") == "True",
        "degraded": degraded.get("status") == "True",
        "upToDate": looked,
        "conditions": [
            {part: entry.get(part) for part in ("type", "status", "reason", "message", "lastTransitionTime")}
            for entry in status.get("conditions") or ()
        ],
        "revision": {
            "wanted": status.get("updateRevision"),
            "proven": status.get("currentRevision"),
            "provingForSeconds": _since(world, status.get("provingSince")),
            "rejected": status.get("rejected"),
            "paused": bool((spec.get("rollout") or {}).get("paused")),
        },
        "failedPods": status.get("failedPods") or [],
        "checkpoint": checkpoint_row(world, found[0]) if found else reference and {"name": reference["name"]},
        "autoscaling": _autoscaling(world, pool),
        "pods": [podview.row(world, pod) for pod in world.pods_of(pool)],
    }


def _since(world: World, stamp: str | None) -> float | None:
    then = when(stamp)
    return None if then is None else round(world.now - then)


def _autoscaling(world: World, pool: Object) -> Object | None:
    for scaler in world.of("horizontalpodautoscalers"):
        target = scaler["spec"]["scaleTargetRef"]
        if namespace(scaler) == namespace(pool) and (target["kind"], target["name"]) == (pool["kind"], name(pool)):
            status = scaler.get("status") or {}
            return {
                "name": name(scaler),
                "min": scaler["spec"].get("minReplicas", 1),
                "max": scaler["spec"]["maxReplicas"],
                "now": status.get("currentReplicas"),
                "wants": status.get("desiredReplicas"),
                "metrics": [_metric(metric) for metric in status.get("currentMetrics") or () if metric.get("type")],
                "problems": [
                    f"{entry['type']}: {entry.get('message') or entry.get('reason')}"
                    for entry in status.get("conditions") or ()
                    if (entry["type"], entry["status"]) in _PROBLEMS
                ],
            }
    return None


_PROBLEMS = {("AbleToScale", "False"), ("ScalingActive", "False"), ("ScalingLimited", "True")}


def _metric(metric: Object) -> str:
    found = metric.get(metric["type"][0].lower() + metric["type"][1:]) or {}
    current = found.get("current") or {}
    called = (found.get("metric") or {}).get("name") or found.get("name") or metric["type"]
    value = current.get("averageValue") or current.get("value") or current.get("averageUtilization")
    return f"{called} {value}"


# --- as text ------------------------------------------------------------------------------------------------


def overview(pools: list[Object], *, wide: bool = False, namespaces: bool = False, paint: Paint = PLAIN) -> list[str]:
    """One line a pool."""
    head = ["NAME", "READY", "THAWED", "COLD", "CHECKPOINT", "STATE", "WHY"]
    rows = []
    for pool in pools:
        why, sort = _headline(pool)
        more = [pool["model"], pool["revision"]["wanted"] or "-", pool["image"]] if wide else []
        rows.append(
            [
                *([pool["namespace"]] if namespaces else []),
                pool["name"],
                f"{pool['readyReplicas']}/{pool['replicas']}",
                str(pool["restored"]),
                str(pool["cold"]),
                (pool["checkpoint"] or {}).get("name", "-"),
                paint(sort, {"good": "ok", "warn": "busy", "bad": "wrong"}[sort]),
                why,
                *more,
            ]
        )
    return table(
        [*(["NAMESPACE"] if namespaces else []), *head, *(["MODEL", "REVISION", "IMAGE"] if wide else [])], rows
    )


def _headline(pool: Object) -> tuple[str, str]:
    """The one condition that matters most, and how it looks."""
    said = {entry["type"]: entry for entry in pool["conditions"]}
    if not pool["upToDate"]:
        return "the operator has not looked at this spec yet: see `kubectl vernal doctor`", "warn"
    if pool["degraded"]:
        return f"{said['Degraded']['reason']}: {said['Degraded']['message']}", "bad"
    if not pool["ready"]:
        entry = said.get("Ready", {})
        return f"{entry.get('reason', 'Unknown')}: {entry.get('message', '')}", "warn"
    moving = said.get("Progressing", {})
    if moving.get("status") == "True":
        return f"{moving['reason']}: {moving['message']}", "warn"
    return said["Ready"]["message"], "good"


def details(pool: Object, *, wide: bool = False, paint: Paint = PLAIN) -> list[str]:
    """A whole pool."""
    why, sort = _headline(pool)
    lines = [
        paint("title", f"Pool {pool['namespace']}/{pool['name']}") + f"   {paint(sort, why)}",
        f"  Model        {pool['model']}",
        f"  Image        {pool['image']}",
        f"  Replicas     {pool['readyReplicas']} of {pool['replicas']} ready: "
        f"{pool['restored']} thawed, {pool['cold']} cold",
        f"  Revision     {_revision(pool['revision'])}",
        f"  Checkpoint   {_checkpoint(pool['checkpoint'])}",
        f"  Autoscaling  {_scaling(pool['autoscaling'])}",
        *(
            f"  Failed pods  {entry['count']} in a row of revision {entry['revision']}: each comes later than the last"
            for entry in pool["failedPods"]
        ),
        "",
        paint("title", "Conditions"),
        *table(
            ["TYPE", "STATUS", "REASON", "MESSAGE"],
            [[e["type"], e["status"], e["reason"], e["message"]] for e in pool["conditions"]],
            "  ",
        ),
        "",
        paint("title", "Pods"),
        *_pods(pool["pods"], pool["revision"]["wanted"], wide, paint),
    ]
    drains = [pod for pod in pool["pods"] if pod["drain"]]
    if drains:
        lines += [
            "",
            paint("title", "Drains"),
            *table(["POD", "IN FLIGHT", "ACCEPTS", "ABORTS IN", "KILLED IN"], map(_drain, drains), "  "),
        ]
    waiting = [pod for pod in pool["pods"] if pod["why"] and not pod["drain"]]
    if waiting:
        lines += ["", paint("title", "Why not ready"), *(f"  {pod['name']}: {pod['why']}" for pod in waiting)]
    return lines


def _revision(revision: Object) -> str:
    text = f"{revision['wanted'] or '-'}"
    if revision["wanted"] == revision["proven"]:
        text += " (proven)"
    else:
        text += f", not proven; {revision['proven'] or 'none'} before it"
    if revision["provingForSeconds"] is not None:
        text += f"; no further pod available for {age(revision['provingForSeconds'])}"
    if revision["rejected"]:
        text += f"; REJECTED at {revision['rejected']['time']}: {revision['rejected']['message']}"
    return text + ("; paused" if revision["paused"] else "")


def _checkpoint(checkpoint: Object | None) -> str:
    if not checkpoint:
        return "none"
    if "state" not in checkpoint:
        return f"{checkpoint['name']} (not read)"
    return (
        f"{checkpoint['name']}, {checkpoint['state']}, {size(checkpoint['sizeBytes'])}; "
        f"{checkpoint['restores']} thawed, {checkpoint['failures']} failed"
    )


def _scaling(scaler: Object | None) -> str:
    if scaler is None:
        return "none"
    text = f"{scaler['min']} to {scaler['max']}, now {_or_dash(scaler['now'])}, wants {_or_dash(scaler['wants'])}"
    return "; ".join([text, *scaler["metrics"], *scaler["problems"]])


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _pods(pods: list[Object], wanted: str | None, wide: bool, paint: Paint) -> list[str]:
    if not pods:
        return ["  none"]
    head = ["NAME", "READY", "PHASE", "START", "REASON", "TOOK", "IN FLIGHT", "RESTARTS", "AGE"]
    rows = []
    for pod in pods:
        mode = pod["startMode"] or "-"
        more = [pod["node"] or "-", pod["revision"] + ("" if pod["revision"] == wanted else " (old)")] if wide else []
        rows.append(
            [
                pod["name"],
                paint("good" if pod["ready"] else "warn", "yes" if pod["ready"] else "no"),
                pod["phase"],
                paint("good", mode) if mode == "Restored" else mode,
                pod["startReason"] or "-",
                seconds(pod["startSeconds"]),
                _or_dash(pod["inFlight"]),
                str(pod["restarts"]),
                age(pod["ageSeconds"]),
                *more,
            ]
        )
    return table([*head, *(["NODE", "REVISION"] if wide else [])], rows, "  ")


def _drain(pod: Object) -> list[str]:
    drain = pod["drain"]
    accepting = {True: "yes", False: "no", None: "-"}[drain["accepting"]]
    return [
        pod["name"],
        _or_dash(drain["inFlight"]),
        accepting,
        seconds(drain["secondsLeft"]),
        age(drain["killedInSeconds"]),
    ]
