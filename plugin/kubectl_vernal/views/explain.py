"""What `explain` says: why a worker started as it did, and which field keeps a checkpoint from fitting."""

from typing import Any

from vernal_contract import compare

from kubectl_vernal.output import PLAIN, Paint, seconds
from kubectl_vernal.read import CHECKPOINTS, World, key, name, namespace
from kubectl_vernal.views.checkpoints import row as checkpoint_row
from kubectl_vernal.views.pods import next_step, ready, why_not_ready

Object = dict[str, Any]

_MOST = 5  # checkpoints that are compared


def view(world: World, pod: Object) -> Object:
    """All that is known of how `pod` started.

    `checkpoints` holds those of its namespace, the nearest first, each with the fields in which it differs from this
    worker: `identity` (what is frozen), `host` (where it was).
    """
    state = world.state(pod)
    found: Object = {
        "namespace": namespace(pod),
        "name": name(pod),
        "ready": ready(pod),
        "heard": state is not None,
        "why": "" if ready(pod) else why_not_ready(world, pod),
    }
    if state is None:
        return found | {"why": found["why"] or world.silent.get(key(pod), "it has no address yet"), "checkpoints": []}
    reason = state.get("startReason")
    freeze = state.get("freeze")
    return found | {
        "phase": state.get("phase"),
        "startMode": state.get("startMode"),
        "startReason": reason,
        "startMessage": state.get("startMessage", ""),
        "nextStep": next_step(reason) if reason != "Restored" else "",
        "seconds": (state.get("timings") or {}).get("total"),
        "restoreFailures": [
            failure | {"nextStep": next_step(failure.get("reason"))} for failure in state.get("restoreFailures") or ()
        ],
        "freeze": freeze and freeze | {"nextStep": next_step(freeze.get("reason"))},
        "identity": state.get("identity"),
        "checkpoints": _compared(world, pod, state),
    }


def is_thawed(found: Object) -> bool:
    return found.get("startMode") == "Restored"


def _compared(world: World, pod: Object, state: Object) -> list[Object]:
    out = []
    for checkpoint in world.of(CHECKPOINTS):
        if namespace(checkpoint) != namespace(pod) or not state.get("identityInputs"):
            continue
        spec, listed = checkpoint["spec"], checkpoint_row(world, checkpoint)
        out.append(
            {
                "name": name(checkpoint),
                "state": listed["state"],
                "why": listed["why"],
                "own": spec["identity"] == (state.get("artifact") or {}).get("identity"),
                "identity": compare.differences(spec.get("identityInputs") or {}, state["identityInputs"]),
                "host": compare.misfits(spec.get("host") or {}, state.get("host") or {}),
            }
        )
    return sorted(out, key=lambda one: (len(one["identity"]) + len(one["host"]), one["name"]))[:_MOST]


def text(found: Object, paint: Paint = PLAIN) -> list[str]:
    title = paint("title", f"Pod {found['namespace']}/{found['name']}")
    if not found["heard"]:
        return [f"{title}   its worker was not heard", f"  {found['why']}"]
    mode = {"Restored": "thawed a checkpoint", "Cold": "started cold"}.get(found["startMode"], "has not started yet")
    took = f" in {seconds(found['seconds'])}" if found["seconds"] is not None else ""
    lines = [f"{title}   {paint('good' if is_thawed(found) else 'warn', mode + took)}"]
    if found["why"]:
        lines.append(f"  Not ready    {found['why']}")
    if found["startReason"]:
        said = f": {found['startMessage']}" if found["startMessage"] else _MEANING.get(found["startReason"], "")
        lines.append(f"  Reason       {found['startReason']}{said}")
    if found["nextStep"]:
        lines.append(f"  Do           {found['nextStep']}")
    for failure in found["restoreFailures"]:
        lines.append(f"  Thaw failed  {failure['reason']} at stage {failure['stage']}: {failure['message']}")
        if failure["nextStep"]:
            lines.append(f"               {failure['nextStep']}")
    freeze = found["freeze"]
    if freeze:
        why = ": ".join(filter(None, (freeze.get("reason"), freeze.get("message"))))
        took = f" in {seconds(freeze['seconds'])}" if freeze.get("seconds") is not None else ""
        lines.append(f"  Freeze       {freeze['outcome']}{took}" + (f" ({why})" if why else ""))
        if freeze["nextStep"] and freeze["outcome"] == "Failed":
            lines.append(f"               {freeze['nextStep']}")
    lines += ["", paint("title", "Checkpoints of this namespace, the nearest first")]
    if not found["checkpoints"]:
        lines.append("  none: the first worker to start makes one")
    for one in found["checkpoints"]:
        fits = not one["identity"] and not one["host"]
        count = len(one["identity"]) + len(one["host"])
        verdict = (
            paint("good", "fits")
            if fits
            else f"{count} field{'s' if count > 1 else ''} differ{'s' if count == 1 else ''}"
        )
        own = ", this worker's own" if one["own"] else ""
        lines.append(f"  {one['name']} ({one['state']}{own}): {verdict}")
        lines += [f"    what is frozen   {line}" for line in one["identity"]]
        lines += [f"    the host         {line}" for line in one["host"]]
        if one["why"]:
            lines.append(f"    {one['why']}")
    return lines


_MEANING = {
    "NoArtifact": ": the store had no checkpoint of this identity when it started",
    "Restored": ": a checkpoint of this identity fitted this host",
    "PolicyDisabled": ": spec.checkpoint.policy is Disabled",
}
