"""What `timeline` says: where the seconds of a start, or of a drain, went.

Kubernetes tells when a step came to an end, to the second. A worker tells of each of its phases when it began and how
long it took, for some go on side by side (digests are checked while CRIU fills memory). An older one does not tell when
they began: then bars show lengths alone.
"""

from typing import Any

from vernal_contract import names

from kubectl_vernal.output import PLAIN, Paint, seconds, table, when
from kubectl_vernal.read import World, condition, labels, name, namespace, worker_status
from kubectl_vernal.views.pods import drain as drain_of

Object = dict[str, Any]
WIDTH = 40

_PHASES = {
    "identity": "what would be frozen, and what the host is",
    "find": "looking for a checkpoint that fits",
    "fetch": "the model from the hub",
    "verify": "digests of files, beside CRIU",
    "files": "the thawed processes' files",
    "memory": "their memory, filled and digested (part of criu)",
    "verify_wait": "waiting for what verify has left",
    "criu": "CRIU makes the processes anew",
    "memory_rest": "memory of processes without a GPU, beside cuda_restore",
    "cuda_restore": "the driver puts their state on the GPU",
    "cuda_unlock": "the GPU goes on",
    "weights_wait": "waiting for the weights",
    "weights": "weights read and checked, beside criu and cuda_restore",
    "wake": "weights and KV cache mapped",
    "resume": "the engine goes on",
    "canary": "the frozen worker's prompts give its answers",
    "engine_start": "vLLM starts",
    "warm": "one request of each kind",
    "oracle": "answers that thawed workers must give",
    "quiesce": "the engine comes to rest, weights go to the store",
    "store_weights": "weights go to the store",
    "cuda_lock": "the GPU stands still (part of cuda_suspend)",
    "cuda_checkpoint": "the GPU's state to memory (part of cuda_suspend)",
    "cuda_suspend": "the GPU is let go",
    "freeze": "CRIU writes the processes",
    "publish": "the checkpoint is made visible",
}


def view(world: World, pod: Object, pool: Object | None) -> Object:
    """`steps` of Kubernetes (begin and end in seconds since the pod was made), `phases` of the worker, `drain`."""
    state = world.state(pod) or {}
    timings, begun = dict(state.get("timings") or {}), state.get("begun") or {}
    total = timings.pop("total", None)
    if not timings.keys() <= begun.keys():
        begun = {}
    timings = dict(sorted(timings.items(), key=lambda phase: begun.get(phase[0], 0.0)))
    return {
        "namespace": namespace(pod),
        "name": name(pod),
        "revision": labels(pod).get(names.LABEL_REVISION, ""),
        "startMode": state.get("startMode"),
        "steps": _steps(pod),
        "totalSeconds": total,
        "phases": [
            {"name": phase, "begin": begun.get(phase), "seconds": spent, "what": _PHASES.get(phase, "")}
            for phase, spent in timings.items()
        ],
        "silent": world.silent.get(f"{namespace(pod)}/{name(pod)}", ""),
        "drain": _drain(world, pod, state, pool),
    }


def _steps(pod: Object) -> list[Object]:
    """What Kubernetes did before the worker could begin, and until it was ready."""
    made = when(pod["metadata"]["creationTimestamp"])
    container = (worker_status(pod).get("state") or {}).get("running") or {}
    marks = [
        ("scheduled", _true_since(pod, "PodScheduled")),
        ("container started", when(container.get("startedAt"))),
        ("ready", _true_since(pod, "Ready")),
    ]
    out, before = [], made
    for title, at in marks:
        if at is not None and before is not None and made is not None:
            out.append({"name": title, "begin": before - made, "end": max(at, before) - made})
            before = max(at, before)
    return out


def _true_since(pod: Object, kind: str) -> float | None:
    found = condition(pod, kind)
    return when(found.get("lastTransitionTime")) if found.get("status") == "True" else None


def _drain(world: World, pod: Object, state: Object, pool: Object | None) -> Object | None:
    found = drain_of(world, pod, state)
    if found is None:
        return None
    grace = pod["metadata"].get("deletionGracePeriodSeconds") or pod["spec"].get("terminationGracePeriodSeconds") or 0
    spec = (pool or {}).get("spec", {}).get("drain") or {}
    accepts = float(spec.get("propagationSeconds", 5))
    runs = float(spec.get("timeoutSeconds", 90))
    deadline = when(pod["metadata"].get("deletionTimestamp"))
    begun = None if deadline is None else world.now - (deadline - grace)
    return found | {
        "begunSeconds": begun,
        "graceSeconds": float(grace),
        "budget": [
            {"name": "accepts requests", "begin": 0.0, "end": accepts},
            {"name": "requests run on", "begin": accepts, "end": accepts + runs},
            {"name": "aborts and exits", "begin": accepts + runs, "end": float(grace)},
        ],
    }


# --- as text ------------------------------------------------------------------------------------------------


def bar(begin: float, end: float, whole: float, width: int = WIDTH) -> str:
    """A bar from `begin` to `end` of `whole`; what is not zero shows one mark at least."""
    if whole <= 0:
        return ""
    first = min(width - 1, int(begin / whole * width))
    last = min(width, max(first + 1, round(end / whole * width)))
    return (" " * first + "#" * (last - first)) if end > begin else " " * first + "|"


def _now(at: float, whole: float) -> str:
    return " " * min(WIDTH, int(WIDTH * at / max(whole, 1))) + "^"


def _row(phase: Object, whole: float) -> list[str]:
    begin = max(0.0, phase["begin"] or 0.0)
    shown = bar(begin, begin + phase["seconds"], whole)
    return [phase["name"], seconds(phase["seconds"]), shown.ljust(WIDTH), phase["what"]]


def text(found: Object, paint: Paint = PLAIN) -> list[str]:
    title = paint("title", f"Pod {found['namespace']}/{found['name']}")
    mode = {"Restored": "thawed", "Cold": "started cold"}.get(found["startMode"], "how it started is not known")
    lines = [f"{title}   {mode}"]
    if found["steps"]:
        whole = found["steps"][-1]["end"]
        lines += ["", paint("title", "Kubernetes, since the pod was made (to the second)")]
        lines += table(
            ["STEP", "TOOK", ""],
            [[s["name"], f"{s['end'] - s['begin']:.0f} s", bar(s["begin"], s["end"], whole)] for s in found["steps"]],
            "  ",
        )
    if found["phases"]:
        whole = found["totalSeconds"] or max((p["begin"] or 0.0) + p["seconds"] for p in found["phases"])
        lines += ["", paint("title", f"Worker, {seconds(found['totalSeconds'])} from its first instruction to ready")]
        if any(phase["begin"] is None for phase in found["phases"]):
            lines += ["  (in the order in which they ended; lengths alone, since some go on side by side)"]
        lines += table(["PHASE", "TOOK", "", "WHAT"], [_row(phase, whole) for phase in found["phases"]], "  ")
    elif found["silent"]:
        lines += ["", f"  The worker was not heard: {found['silent']}"]
    drain = found["drain"]
    if drain:
        whole = drain["graceSeconds"]
        lines += ["", paint("title", "Drain")]
        if drain["begunSeconds"] is not None:
            lines.append(f"  {seconds(drain['begunSeconds'])} of {seconds(whole)} are over")
        lines += table(
            ["BUDGET", "SECONDS", ""],
            [
                [b["name"], f"{b['begin']:g} to {b['end']:g}", bar(b["begin"], b["end"], whole)]
                for b in drain["budget"]
                if b["end"] > b["begin"]
            ]
            + ([] if drain["begunSeconds"] is None else [["now", "", _now(drain["begunSeconds"], whole)]]),
            "  ",
        )
        if drain["inFlight"] is not None:
            lines.append(f"  in flight: {drain['inFlight']}")
    if len(lines) == 1:
        lines.append("  nothing has happened yet")
    return lines
