"""What spec.podTemplate.spec may hold: an allowlist, because what a Pod can ask for grows with every release.

Who makes a pool must not thereby get more of the node, or of other people's rights, than a pool needs. The same table
makes the check here, which reads stored pools, and the ValidatingAdmissionPolicy of the chart, which speaks at
`kubectl apply` (`api.policy`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vernal_contract import names

ROOT = "spec.podTemplate.spec"


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of which only these fields may be set. What is below a field that leads to None is free.

    `each`: the value is a list of such objects. `named`: each of them needs a name.
    """

    fields: "Mapping[str, Fields | None]"
    each: bool = False
    named: bool = False


def _free(*fields: str) -> "dict[str, Fields | None]":
    return dict.fromkeys(fields)


_SECURITY = (
    # Each takes something away, or says as whom to run inside of the container.
    _free("allowPrivilegeEscalation", "readOnlyRootFilesystem", "runAsNonRoot", "runAsUser", "runAsGroup")
    | _free("seccompProfile")  # of Pod Security's baseline: Unconfined is refused (see VALUES)
    | {"capabilities": Fields(_free("drop"))}  # never add: Vernal adds what CRIU needs
)
_MOUNTS = {
    # No mountPropagation: what is mounted in a container must not appear on the node.
    "volumeMounts": Fields(_free("name", "mountPath", "readOnly", "subPath", "subPathExpr", "recursiveReadOnly"), True)
}
_WORKER = (
    _free("name")
    | _free("env", "envFrom")  # but for Vernal's own names
    | _free("resources", "resizePolicy")  # counted by quotas, like spec.resources
    | _MOUNTS
    | _free("volumeDevices")  # block devices of claims
    | {"ports": Fields(_free("name", "containerPort", "protocol"), True)}  # no hostPort: it is the node's
    | _free("lifecycle")  # a preStop hook
    | {"securityContext": Fields(_SECURITY)}
)
_OTHER = (
    _WORKER
    | _free("image", "imagePullPolicy", "command", "args", "workingDir")  # the worker's are Vernal's
    | _free("startupProbe", "readinessProbe", "livenessProbe")  # so are these
    | _free("restartPolicy", "restartPolicyRules")  # a sidecar among initContainers
)
_VOLUME = (
    _free("name")
    | _free("configMap", "secret", "downwardAPI", "emptyDir", "persistentVolumeClaim", "ephemeral", "image")
    | _free("csi")  # of drivers that an administrator has installed for it
    | {
        "projected": Fields(
            _free("defaultMode")
            # No serviceAccountToken, clusterTrustBundle, podCertificate: a checkpoint is process memory.
            | {"sources": Fields(_free("configMap", "secret", "downwardAPI"), True)}
        )
    }
)
POD = Fields(
    # Where a pod runs, as far as the scheduler decides it. No nodeName: it goes past the scheduler and past taints.
    _free("affinity", "nodeSelector", "tolerations", "topologySpreadConstraints", "schedulerName", "schedulingGates")
    | _free("priorityClassName", "preemptionPolicy")  # quotas by priority class bound it
    | _free("runtimeClassName")  # of classes that an administrator has made; GPUs need one in places
    | _free("imagePullSecrets")
    | _free("dnsPolicy", "dnsConfig", "hostAliases")  # how names are resolved inside of the pod
    | _free("readinessGates")  # load balancers that are told by a condition
    | {
        # Who owns files of volumes, and less privilege than by default. No sysctls: they are the node's.
        "securityContext": Fields(
            _free("fsGroup", "fsGroupChangePolicy", "supplementalGroups", "supplementalGroupsPolicy")
            | _free("runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile")
        ),
        "containers": Fields(_OTHER, True, True),
        "initContainers": Fields(_OTHER, True, True),
        "volumes": Fields(_VOLUME, True, True),
    }
)
WORKER = Fields(_WORKER, True, True)
"""Of the entry of `containers` that is called `worker`."""

WHY = {
    "terminationGracePeriodSeconds": "set spec.terminationGracePeriodSeconds instead",
    "resourceClaims": "set spec.resourceClaims instead",
    "restartPolicy": "workers are always restarted in place",
    "ephemeralContainers": "use `kubectl debug`",
    "hostNetwork": "it would give the pool's creator the node's network",
    "hostPID": "it would give the pool's creator the node's processes",
    "hostIPC": "it would give the pool's creator the node's shared memory",
    "hostUsers": "CRIU needs the node's user namespace",
    "hostPath": "it would give the pool's creator the node's files",
    "hostPort": "it would give the pool's creator a port of the node",
    "hostIP": "it would give the pool's creator a port of the node",
    "nodeName": "it goes past the scheduler and its taints; use nodeSelector or affinity",
    "serviceAccountName": "the pool's creator would act with its rights, and a checkpoint is process memory",
    "serviceAccount": "the pool's creator would act with its rights, and a checkpoint is process memory",
    "serviceAccountToken": "a checkpoint is process memory, so a worker must hold no token",
    "automountServiceAccountToken": "a checkpoint is process memory, so a worker must hold no token",
    "shareProcessNamespace": "other containers could read the engine's memory, and CRIU needs the PIDs for itself",
    "sysctls": "they are the node's",
    "privileged": "it would give the pool's creator the node",
    "procMount": "it would show the pool's creator the node's /proc",
    "add": "Vernal adds what a worker needs",
    "nfs": "use a PersistentVolumeClaim: which servers may be mounted is an administrator's decision",
    "flexVolume": "its driver is a program on the node",
    "mountPropagation": "mounts of a container must not appear on the node",
    "terminationMessagePath": "the pool's condition is made of it",
    "terminationMessagePolicy": "the pool's condition is made of it",
    "image": "set spec.image instead",
    "imagePullPolicy": "set spec.imagePullPolicy instead",
    "command": "the worker's process 1 is Vernal's",
    "args": "set spec.engineArgs instead",
    "startupProbe": "the worker's probes are Vernal's",
    "readinessProbe": "the worker's probes are Vernal's",
    "livenessProbe": "the worker's probes are Vernal's",
}
"""Why a field is not among those that may be set, for the ones that people ask for."""
NOT_LISTED = "it is not among the fields that a pool may set (docs/user-guide.md lists them)"


def problems(spec: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a podTemplate.spec, one line each, the field first."""
    yield from _object(ROOT, spec, POD)


def _object(where: str, value: Mapping[str, Any], allowed: Fields) -> Iterator[str]:
    for name, inner in value.items():
        here = f"{where}.{name}"
        if name not in allowed.fields:
            yield f"{here} cannot be set: {WHY.get(name, NOT_LISTED)}"
            continue
        below = allowed.fields[name]
        if name == "seccompProfile" and isinstance(inner, Mapping) and inner.get("type") == "Unconfined":
            yield f"{here}.type cannot be Unconfined: Vernal sets it where CRIU needs it"
        if name == "env":
            yield from _env(here, inner)
        if below is None or inner is None:  # null takes a field away, which a field that may be set may be
            continue
        yield from _list(here, inner, below) if below.each else _one(here, inner, below)


def _one(where: str, value: Any, allowed: Fields) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _object(where, value, allowed)
    else:
        yield f"{where} must be an object"


def _list(where: str, value: Any, allowed: Fields) -> Iterator[str]:
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        yield f"{where} must be a list of objects"
        return
    for number, entry in enumerate(value):
        name = entry.get("name")
        if allowed.named and not (isinstance(name, str) and name):
            yield f"{where}[{number}].name is missing"
            continue
        is_worker = where == f"{ROOT}.containers" and name == names.CONTAINER_WORKER
        label = name if isinstance(name, str) and name else str(number)
        yield from _object(f"{where}[{label}]", entry, WORKER if is_worker else allowed)


def _env(where: str, value: Any) -> Iterator[str]:
    for variable in value if isinstance(value, list) else []:
        if isinstance(variable, Mapping) and str(variable.get("name", "")).startswith("VERNAL_"):
            yield f"{where}[{variable['name']}] cannot be set: Vernal uses names that start with VERNAL_"
