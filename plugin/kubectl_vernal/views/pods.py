"""One worker's pod in a few words: how it started, why it is not ready, what it drains."""

from typing import Any

from vernal_contract import names
from vernal_contract.reasons import NEXT_STEP, Reason

from kubectl_vernal.output import when
from kubectl_vernal.read import World, condition, labels, name, worker_status

Object = dict[str, Any]


def next_step(reason: str | None) -> str:
    """What to do about a reason code; "" if it is none, or no failure."""
    return NEXT_STEP.get(Reason(reason), "") if reason in set(Reason) else ""


def ready(pod: Object) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def leaving(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def row(world: World, pod: Object) -> Object:
    """All that `status` tells of a pod."""
    state = world.state(pod) or {}
    return {
        "name": name(pod),
        "revision": labels(pod).get(names.LABEL_REVISION, ""),
        "ready": ready(pod),
        "phase": state.get("phase") or (pod.get("status") or {}).get("phase", "Pending"),
        "startMode": state.get("startMode"),
        "startReason": state.get("startReason"),
        "startSeconds": (state.get("timings") or {}).get("total"),
        "inFlight": state.get("inFlight"),
        "restarts": worker_status(pod).get("restartCount", 0),
        "node": (pod.get("spec") or {}).get("nodeName"),
        "ageSeconds": round(world.age(pod)),
        "drain": drain(world, pod, state),
        "why": "" if ready(pod) and not leaving(pod) else why_not_ready(world, pod),
    }


def why_not_ready(world: World, pod: Object) -> str:
    """The best explanation that the pod, its container or its worker gives."""
    if leaving(pod):
        return "it is being deleted, and drains"
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"no node takes it: {scheduled.get('message') or scheduled.get('reason')}"
    container = worker_status(pod)
    current, last = container.get("state") or {}, (container.get("lastState") or {}).get("terminated")
    waiting = current.get("waiting")
    if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
        said = (
            f"{waiting.get('reason')}: {waiting['message']}" if waiting.get("message") else str(waiting.get("reason"))
        )
        return f"{said}{_ended(last)}"
    ended = current.get("terminated")
    if ended:
        return _ended(ended).removeprefix("; ")
    state = world.state(pod)
    if state is None:
        missing = world.silent.get(f"{pod['metadata'].get('namespace', '')}/{name(pod)}")
        return (
            f"its container starts{_ended(last)}"
            if not missing
            else f"its worker was not heard: {missing}{_ended(last)}"
        )
    if state.get("waitingFor"):
        return f"its start waits for {state['waitingFor']}"
    if state.get("lastError"):
        return str(state["lastError"])
    return f"its worker is {state.get('phase', 'Unknown')}{_ended(last)}"


def _ended(terminated: Object | None) -> str:
    if not terminated:
        return ""
    said = (terminated.get("message") or terminated.get("reason") or "").strip()
    return f"; its last container ended with exit code {terminated.get('exitCode')}" + (f": {said}" if said else "")


def drain(world: World, pod: Object, state: Object) -> Object | None:
    """Where a drain is; None if there is none."""
    report = state.get("drain")
    if not leaving(pod) and report is None:
        return None
    deadline = when(pod["metadata"].get("deletionTimestamp"))
    return {
        "inFlight": state.get("inFlight"),
        "accepting": (report or {}).get("accepting"),
        "secondsLeft": (report or {}).get("secondsLeft"),
        "aborted": (report or {}).get("aborted"),
        "killedInSeconds": None if deadline is None else round(deadline - world.now),
    }
