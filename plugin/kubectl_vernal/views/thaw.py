"""What `thaw --dry-run` says: would a pod that were made now thaw, on which nodes, and why not.

A node tells less of itself than a worker finds out: kernel and architecture always, its GPUs only where NVIDIA's device
plugin and GPU feature discovery label them. What is not told is "unknown", not "yes".
"""

import re
from typing import Any

from vernal_contract import compare

from kubectl_vernal.output import PLAIN, Paint, table
from kubectl_vernal.read import CHECKPOINTS, World, condition, labels, name, namespace
from kubectl_vernal.views.checkpoints import row as checkpoint_row
from kubectl_vernal.views.quantity import number

Object = dict[str, Any]

GPU = "nvidia.com/gpu"
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


def view(world: World, pool: Object) -> Object:
    spec = pool["spec"]
    checkpoint, obstacle = _checkpoint(world, pool)
    nodes = [_node(node, pool, checkpoint) for node in world.of("nodes")]
    return {
        "namespace": namespace(pool),
        "name": name(pool),
        "policy": (spec.get("checkpoint") or {}).get("policy", "Auto"),
        "checkpoint": checkpoint and checkpoint_row(world, checkpoint),
        "obstacle": obstacle,
        "ifNot": _if_not(spec),
        "nodes": sorted(nodes, key=lambda node: (_ORDER.index(node["verdict"]), node["name"])),
        "unread": world.unread.get("nodes", ""),
        "would": "no" if obstacle else _overall(nodes),
    }


_ORDER = ("yes", "unknown", "cold", "no")


def _overall(nodes: list[Object]) -> str:
    verdicts = {node["verdict"] for node in nodes}
    return next((word for word in ("yes", "unknown") if word in verdicts), "no" if nodes else "unknown")


def _checkpoint(world: World, pool: Object) -> tuple[Object | None, str]:
    """The checkpoint that a new pod would look for, and what speaks against it on any node."""
    spec, status = pool["spec"], pool.get("status") or {}
    if (spec.get("checkpoint") or {}).get("policy") == "Disabled":
        return None, "spec.checkpoint.policy is Disabled"
    if status.get("observedGeneration") != pool["metadata"].get("generation"):
        return None, "the operator has not looked at this spec yet: see `kubectl vernal doctor`"
    reference = status.get("checkpoint")
    if reference is None:
        return None, condition(pool, "CheckpointReady").get("message") or "no worker has made a checkpoint yet"
    found = next(
        (c for c in world.of(CHECKPOINTS) if (namespace(c), name(c)) == (namespace(pool), reference["name"])), None
    )
    if found is None:
        return None, f"the checkpoint {reference['name']} is not there any more"
    listed = checkpoint_row(world, found)
    if listed["state"] not in ("Ready", "Deleting"):
        return found, f"the checkpoint is {listed['state']}: {listed['why']}"
    wanted = status.get("updateRevision")
    if reference["revision"] != wanted:
        return found, f"it is of revision {reference['revision']}; no worker of {wanted} has reported one yet"
    return found, ""


def _if_not(spec: Object) -> str:
    if (spec.get("checkpoint") or {}).get("policy") == "Required":
        return "a pod that cannot thaw stops (spec.checkpoint.policy is Required)"
    return "a pod that cannot thaw starts cold"


def _node(node: Object, pool: Object, checkpoint: Object | None) -> Object:
    """A node's verdict: yes, no (no pod of this pool runs there), cold (runs, and cannot thaw), unknown."""
    away = _unfit(node, pool)
    misfits, untold = _compared(node, (checkpoint or {}).get("spec", {}).get("host") or {}) if checkpoint else ([], [])
    verdict = "no" if away else "cold" if misfits or not checkpoint else "unknown" if untold else "yes"
    return {
        "name": name(node),
        "verdict": verdict,
        "why": [*away, *misfits, *(f"{field}: the node does not tell" for field in untold)],
    }


def _unfit(node: Object, pool: Object) -> list[str]:
    """Why the scheduler would not take the node, as far as one can see from the pool's spec."""
    spec = (pool["spec"].get("podTemplate") or {}).get("spec") or {}
    out = []
    if condition(node, "Ready").get("status") != "True":
        out.append("the node is not Ready")
    if (node.get("spec") or {}).get("unschedulable"):
        out.append("the node is cordoned")
    for key, value in sorted((spec.get("nodeSelector") or {}).items()):
        if labels(node).get(key) != value:
            out.append(f"nodeSelector {key}={value}: the node has {labels(node).get(key, 'no such label')}")
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint["effect"] != "PreferNoSchedule" and not any(
            _tolerates(t, taint) for t in spec.get("tolerations") or ()
        ):
            out.append(f"taint {taint['key']}:{taint['effect']} is not tolerated")
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    resources = pool["spec"].get("resources") or {}
    for key, wanted in sorted({**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items()):
        if number(allocatable.get(key, "0")) < number(wanted):
            out.append(f"{key}: {wanted} wanted, the node has {allocatable.get(key, 'none')}")
    return out


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("operator") == "Exists":
        return not toleration.get("key") or toleration["key"] == taint["key"]
    return bool(toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""))


def told(node: Object) -> Object:
    """The fields of a host tuple that a node's status and labels give; NVIDIA's GPU feature discovery writes the
    labels.
    """
    info, found = (node.get("status") or {}).get("nodeInfo") or {}, labels(node)
    out: Object = {}
    if info.get("architecture"):
        out["architecture"] = _ARCHITECTURES.get(info["architecture"], info["architecture"])
    if release := re.match(r"\d+\.\d+", info.get("kernelVersion", "")):
        out["kernel"] = release[0]
    if product := found.get("nvidia.com/gpu.product"):
        out["gpuProduct"] = product.removesuffix("-SHARED").replace("-", " ")
    if driver := found.get("nvidia.com/cuda.driver-version.full"):
        out["gpuDriver"] = driver
    if (major := found.get("nvidia.com/gpu.compute.major")) and (minor := found.get("nvidia.com/gpu.compute.minor")):
        out["gpuComputeCapability"] = f"{major}.{minor}"
    return out


def _compared(node: Object, host: Object) -> tuple[list[str], list[str]]:
    """Fields of the checkpoint's host tuple that the node has otherwise, and those that it does not tell."""
    here = told(node)
    fields = ["architecture", "kernel"]
    if host.get("gpuProduct"):
        fields += ["gpuProduct", "gpuDriver", "gpuComputeCapability"]
    asked = {field: host[field] for field in fields if host.get(field) is not None}
    if "gpuProduct" in asked:  # labels have no blanks
        asked["gpuProduct"] = str(asked["gpuProduct"]).replace("-", " ")
    known = {field: value for field, value in here.items() if field in asked}
    lines = compare.differences({field: asked[field] for field in known}, known)
    return [line.replace("this host has", "the node has") for line in lines], [f for f in asked if f not in known]


# --- as text ------------------------------------------------------------------------------------------------


def text(found: Object, paint: Paint = PLAIN) -> list[str]:
    word = {"yes": "would thaw", "no": "would not thaw", "unknown": "may thaw"}[found["would"]]
    sort = {"yes": "good", "no": "bad", "unknown": "warn"}[found["would"]]
    title = paint("title", f"Pool {found['namespace']}/{found['name']}")
    lines = [f"{title}   a pod made now {paint(sort, word)}"]
    checkpoint = found["checkpoint"]
    lines.append(
        f"  Checkpoint   {checkpoint['name']}, made on {checkpoint['host']}" if checkpoint else "  Checkpoint   none"
    )
    if found["obstacle"]:
        lines.append(f"  Why not      {found['obstacle']}")
    lines += [f"  Otherwise    {found['ifNot']}", "", paint("title", "Nodes")]
    if found["unread"]:
        lines.append(f"  not read: {found['unread']}")
    elif not found["nodes"]:
        lines.append("  none")
    else:
        meaning = {"yes": "thaws", "cold": "starts cold", "no": "does not run there", "unknown": "not known"}
        colour = {"yes": "good", "cold": "warn", "no": "dim", "unknown": "warn"}
        lines += table(
            ["NODE", "A POD", "WHY"],
            [
                [node["name"], paint(colour[node["verdict"]], meaning[node["verdict"]]), "; ".join(node["why"]) or "-"]
                for node in found["nodes"]
            ],
            "  ",
        )
        lines += ["", "  Nodes do not tell their CPU's features and mounts: a worker compares those when it starts."]
    return lines
