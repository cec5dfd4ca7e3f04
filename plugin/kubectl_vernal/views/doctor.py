"""What `doctor` says: one line a check, and what to do about each that is not well."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vernal_contract import names

from kubectl_vernal.output import PLAIN, Paint, age, table, when
from kubectl_vernal.read import CHECKPOINTS, POOLS, World, condition, key, labels, name, namespace
from kubectl_vernal.views.quantity import number
from kubectl_vernal.views.thaw import GPU

Object = dict[str, Any]
Outcome = Literal["ok", "warn", "bad", "unknown"]

OLDEST_KUBERNETES = (1, 34)
OLDEST_KERNEL = (5, 15)
OLDEST_DRIVER = 570

RIGHTS: tuple[tuple[str, str, str, str], ...] = (
    ("get", names.GROUP, POOLS, "status and everything else"),
    ("list", names.GROUP, CHECKPOINTS, "checkpoints, explain, thaw"),
    ("list", "", "pods", "status, explain, timeline"),
    ("get", "", "pods/proxy", "start modes and reasons: status, explain, timeline"),
    ("get", "", "pods/log", "logs, report"),
    ("create", "", "pods/eviction", "drain"),
    ("patch", names.GROUP, POOLS, "freeze, pause, rollback"),
    ("list", "apps", "controllerrevisions", "rollback"),
    ("list", "autoscaling", "horizontalpodautoscalers", "autoscaling in status"),
    ("list", "", "nodes", "thaw --dry-run, the nodes in doctor"),
)
"""Verb, group, resource, and what needs it."""


@dataclass(frozen=True)
class Check:
    what: str
    outcome: Outcome
    found: str
    do: str = ""


@dataclass(frozen=True)
class Rights:
    """Answers to SelfSubjectAccessReviews, by (verb, group, resource)."""

    allowed: Mapping[tuple[str, str, str], bool]
    namespace: str


def view(world: World, version: Mapping[str, str], rights: Rights) -> list[Check]:
    return [
        _version(version),
        *_crds(world),
        *_operator(world),
        *_rights(rights),
        *_claims(world),
        *_nodes(world),
    ]


def is_well(checks: list[Check]) -> bool:
    return all(check.outcome != "bad" for check in checks)


def _version(version: Mapping[str, str]) -> Check:
    digits = tuple(int(re.sub(r"\D", "", version.get(part, "0")) or 0) for part in ("major", "minor"))
    text = version.get("gitVersion", "?")
    if digits < OLDEST_KUBERNETES:
        return Check("Kubernetes", "bad", text, "Vernal needs 1.34 or newer: upgrade the cluster")
    return Check("Kubernetes", "ok", text)


def _crds(world: World) -> list[Check]:
    if "customresourcedefinitions" in world.unread:  # may not be read by everybody; that pools were read says enough
        if POOLS in world.unread:
            return [Check("CRDs", "unknown", world.unread[POOLS], "ask who may: `kubectl get crd`")]
        return [Check("CRDs", "ok", "pools are served")]
    out = []
    for plural in (POOLS, CHECKPOINTS):
        title = f"CRD {plural}"
        found = [crd for crd in world.of("customresourcedefinitions") if name(crd) == f"{plural}.{names.GROUP}"]
        if not found:
            out.append(
                Check(
                    title, "bad", "not installed", "`helm upgrade` with crds.install=true, or `kubectl apply -f crds/`"
                )
            )
        elif condition(found[0], "Established").get("status") != "True":
            out.append(Check(title, "bad", "not established", f"`kubectl describe crd {plural}.{names.GROUP}`"))
        else:
            served = [v["name"] for v in found[0]["spec"]["versions"] if v.get("served")]
            word: Outcome = "ok" if names.VERSION in served else "bad"
            out.append(
                Check(
                    title,
                    word,
                    ", ".join(served),
                    "" if word == "ok" else f"{names.VERSION} is not served: use one release",
                )
            )
    return out


def _operator(world: World) -> list[Check]:
    """Whether an operator renews a Lease: one that an operator has written, or of the default name."""
    if "leases" in world.unread:
        return [Check("Operator", "unknown", "you may not read Leases", "ask who may: `kubectl get lease -A`")]
    leases = [lease for lease in world.of("leases") if name(lease) == "vernal-operator" or _managed(lease)]
    if not leases:
        return [
            Check(
                "Operator",
                "bad",
                "no Lease: none has ever run",
                "install the chart; `kubectl get pods -A -l app.kubernetes.io/name=vernal-operator`",
            )
        ]
    out = []
    for lease in sorted(leases, key=key):
        spec = lease.get("spec") or {}
        renewed, holder = when(spec.get("renewTime")), spec.get("holderIdentity")
        silent = world.now - renewed if renewed is not None else float("inf")
        title = f"Operator, Lease {key(lease)}"
        if not holder:
            out.append(
                Check(
                    title, "bad", "nobody leads", "`kubectl -n NAMESPACE get deploy,pods`: is the operator scaled to 0?"
                )
            )
        elif silent > float(spec.get("leaseDurationSeconds") or 15) + 5:
            text = f"{holder} has been silent for {age(silent)}"
            out.append(
                Check(
                    title,
                    "bad",
                    text,
                    f"`kubectl -n {namespace(lease)} logs deploy/{name(lease)}` says why; pools go on serving",
                )
            )
        else:
            out.append(Check(title, "ok", f"{holder} leads"))
    return out


def _managed(lease: Object) -> bool:
    return any(entry.get("manager") == names.FIELD_MANAGER for entry in lease["metadata"].get("managedFields") or ())


def _rights(rights: Rights) -> list[Check]:
    lacking = [right for right in RIGHTS if not rights.allowed.get(right[:3], False)]
    if not lacking:
        return [Check("Your rights", "ok", f"all that the plugin needs in namespace {rights.namespace}")]
    return [
        Check(
            f"Your right to {verb} {resource}",
            "warn",
            f"not in {rights.namespace or 'the cluster'}; needed for {use}",
            "bind the chart's view or edit role" if group == names.GROUP else "ask for it, or do without",
        )
        for verb, group, resource, use in lacking
    ]


def _claims(world: World) -> list[Check]:
    """The claims that pools name, once each."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for pool in world.of(POOLS):
        storage = (pool["spec"].get("checkpoint") or {}).get("storage")
        if storage and "claimName" in storage:  # of buckets nothing can be seen from here
            wanted.setdefault((namespace(pool), storage["claimName"]), []).append(name(pool))
    if "persistentvolumeclaims" in world.unread:
        return [Check("Storage", "unknown", "you may not read PersistentVolumeClaims")] if wanted else []
    there = {(namespace(claim), name(claim)): claim for claim in world.of("persistentvolumeclaims")}
    out = []
    for (where, called), pools in sorted(wanted.items()):
        title, claim = f"Claim {where}/{called}", there.get((where, called))
        if claim is None:
            out.append(
                Check(
                    title,
                    "bad",
                    f"missing; pool {', '.join(pools)} names it",
                    "make it, or correct spec.checkpoint.storage.claimName",
                )
            )
            continue
        phase = (claim.get("status") or {}).get("phase", "Pending")
        modes = claim["spec"].get("accessModes") or []
        size = claim["spec"].get("resources", {}).get("requests", {}).get("storage", "?")
        if phase != "Bound":
            out.append(
                Check(
                    title,
                    "warn",
                    f"{phase}, {size}",
                    "`kubectl describe pvc`: a claim that waits for its first pod is well",
                )
            )
        elif "ReadWriteMany" not in modes:
            out.append(
                Check(
                    title,
                    "warn",
                    f"Bound, {', '.join(modes)}",
                    "only pods of one node can use it: ReadWriteMany lets every node thaw",
                )
            )
        else:
            out.append(Check(title, "ok", f"Bound, {size}, ReadWriteMany"))
    return out


def _nodes(world: World) -> list[Check]:
    if "nodes" in world.unread:
        return [Check("Nodes", "unknown", "you may not read nodes")]
    return [_node(node) for node in sorted(world.of("nodes"), key=name)]


def _node(node: Object) -> Check:
    title, info = f"Node {name(node)}", (node.get("status") or {}).get("nodeInfo") or {}
    gpus = number(((node.get("status") or {}).get("allocatable") or {}).get(GPU, "0"))
    driver = labels(node).get("nvidia.com/cuda.driver-version.full", "")
    product = labels(node).get("nvidia.com/gpu.product", "GPU")
    parts = [f"kernel {info.get('kernelVersion', '?')}", f"{gpus} x {product}" if gpus else "no GPU"]
    text = ", ".join([*parts, *([f"driver {driver}"] if driver else [])])
    if condition(node, "Ready").get("status") != "True":
        return Check(title, "warn", "not Ready", f"`kubectl describe node {name(node)}`")
    kernel = tuple(int(part) for part in re.findall(r"\d+", info.get("kernelVersion", ""))[:2])
    if kernel and kernel < OLDEST_KERNEL:
        return Check(title, "warn", text, "workers start cold there (HostUnsupported): CRIU wants kernel 5.15 or newer")
    if driver and int(driver.split(".")[0]) < OLDEST_DRIVER:
        return Check(
            title, "warn", text, "workers start cold there (HostUnsupported): the driver's checkpoint API came with 570"
        )
    if gpus and not driver:
        return Check(
            title,
            "ok",
            text,
            "GPU feature discovery would label it with its driver; `vernal-worker doctor` in a pod looks itself",
        )
    return Check(title, "ok", text)


def text(checks: list[Check], paint: Paint = PLAIN) -> list[str]:
    sort = {"ok": "good", "warn": "warn", "bad": "bad", "unknown": "dim"}
    return table(
        ["CHECK", "", "FOUND", "DO"],
        [[check.what, paint(sort[check.outcome], check.outcome), check.found, check.do or "-"] for check in checks],
    )
