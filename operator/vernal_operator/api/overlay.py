"""What spec.podTemplate.spec may hold: an allowlist, because what a Pod can ask for grows with every release.

Who makes a pool must not thereby get more of the node, or of other people's rights, than a pool needs. The same table
makes the check here, which reads stored pools, and the ValidatingAdmissionPolicy of the chart, which speaks at
`kubectl apply` (`api.policy`).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    | _free("seccompProfile")  # of Pod Security's baseline: Unconfined is refused (see `REFUSALS`)
    | {"capabilities": Fields(_free("drop"))}  # never add: Vernal adds what CRIU needs
)
_MOUNTS = {
    # No mountPropagation: what is mounted in a container must not appear on the node.
    "volumeMounts": Fields(_free("name", "mountPath", "readOnly", "subPath", "subPathExpr", "recursiveReadOnly"), True)
}
_HTTP = {"httpGet": Fields(_free("path", "port", "scheme", "httpHeaders"))}  # no host: the kubelet asks from the node
_TCP = {"tcpSocket": Fields(_free("port"))}
_BOTH = (
    _free("name")
    | _free("env")  # but for Vernal's own names
    | _free("resources", "resizePolicy")  # counted by quotas, like spec.resources
    | _MOUNTS
    | {"ports": Fields(_free("name", "containerPort", "protocol"), True)}  # no hostPort: it is the node's
    | {"securityContext": Fields(_SECURITY)}
)
# No exec: a hook has the capabilities of its container, and the worker's are CRIU's.
_WORKER = _BOTH | {"lifecycle": Fields(dict.fromkeys(("preStop", "postStart"), Fields(_free("sleep") | _HTTP)))}
_HOOK = Fields(_free("sleep", "exec") | _HTTP | _TCP)
_PROBE = Fields(
    _free("exec", "grpc", "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold")
    | _free("failureThreshold", "terminationGracePeriodSeconds")
    | _HTTP
    | _TCP
)
_OTHER = (
    _BOTH
    | _free("envFrom")
    | {"lifecycle": Fields(_free("stopSignal") | dict.fromkeys(("preStop", "postStart"), _HOOK))}
    | _free("image", "imagePullPolicy", "command", "args", "workingDir")  # the worker's are Vernal's
    | dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), _PROBE)  # so are these
    | _free("restartPolicy", "restartPolicyRules")  # a sidecar among initContainers
)
_CLAIM = _free("accessModes", "resources", "storageClassName", "volumeMode", "volumeAttributesClassName")
_VOLUME = (
    _free("name")
    | _free("configMap", "secret", "downwardAPI", "emptyDir", "persistentVolumeClaim", "image")
    # What a new volume is, but not which of those that are there, nor of which other one it is a copy.
    | {"ephemeral": Fields({"volumeClaimTemplate": Fields(_free("metadata") | {"spec": Fields(_CLAIM)})})}
    | _free("csi")  # of `CSI_DRIVERS`
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


@dataclass(frozen=True, slots=True)
class Step:
    """From an object to one of its fields, or to each entry of the list there: of that name, or of any but that."""

    field: str
    each: bool = False
    name: str = ""
    but: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A value that a field must not have though it may be set.

    `check` and `cel` (of `it`) say whether the object at the end of one of `paths` has it; `said` follows its name.
    """

    paths: tuple[tuple[Step, ...], ...]
    check: Callable[[Mapping[str, Any]], bool]
    cel: str
    said: str


_ALL = (Step("containers", True), Step("initContainers", True))
_PROCESS_1 = (Step("containers", True, name=names.CONTAINER_WORKER),)
_BESIDE = (Step("containers", True, but=names.CONTAINER_WORKER), Step("initContainers", True))


def _in(containers: Iterable[Step], *steps: Step) -> tuple[tuple[Step, ...], ...]:
    return tuple((container, *steps) for container in containers)


_OURS = "^VERNAL_"
LOADED = (
    r"^(LD_.*|PYTHON.*|PATH|GCONV_PATH|GLIBC_TUNABLES|OPENSSL_.*|BASH_ENV|ENV)$"  # what the worker's process 1 runs
)
_SYSTEM = (  # where the programs of process 1 are, what belongs to the kernel, and Vernal's own places
    r"^/(bin|boot|dev|etc|lib[^/]*|opt/vernal|proc|root/[.]local|run|sbin|sys|usr|var/lib/vernal/(store|model|node-cache)|var/run"
    r"|vllm-workspace)(/|$)|^/(opt|root|var|var/lib|var/lib/vernal)?$"
)
_CERTIFICATES = r"^/(etc/ssl/certs|etc/pki|usr/local/share/ca-certificates)(/|$)"
_CROOKED = r"^[^/]|//|/$|/[.][.]?(/|$)"
MOUNT_SAID = "is where the worker's own programs and files are: use a directory such as /mnt/NAME"


def taken(path: str) -> bool:
    """Whether nothing may be mounted into the worker there: it could be what process 1 runs, with CRIU's capabilities.

    A path that is not in its shortest form is, too.
    """
    return bool(re.search(_CROOKED, path) or (re.search(_SYSTEM, path) and not re.search(_CERTIFICATES, path)))


def taken_cel(path: str) -> str:
    """`taken` of an expression in CEL."""
    system, certificates, crooked = map(json.dumps, (_SYSTEM, _CERTIFICATES, _CROOKED))
    return f"({path}.matches({crooked}) || ({path}.matches({system}) && !{path}.matches({certificates})))"


_SUB_PATHS = ("subPath", "subPathExpr")
REFUSALS = (
    Refusal(
        _in(_ALL, Step("env", True)),
        lambda it: re.search(_OURS, str(it.get("name", ""))) is not None,
        f"has(it.name) && it.name.matches('{_OURS}')",
        "cannot be set: Vernal uses names that start with VERNAL_",
    ),
    Refusal(
        _in(_PROCESS_1, Step("env", True)),
        lambda it: re.search(LOADED, str(it.get("name", ""))) is not None,
        f"has(it.name) && it.name.matches('{LOADED}')",
        "cannot be set: it would choose what process 1 runs, with the capabilities that CRIU needs; for the engine, "
        "give it in spec.env",
    ),
    Refusal(
        _in(_PROCESS_1, Step("volumeMounts", True)),
        lambda it: "mountPath" in it and taken(str(it["mountPath"])),
        f"has(it.mountPath) && {taken_cel('it.mountPath')}",
        f"has a mountPath that {MOUNT_SAID}",
    ),
    Refusal(
        _in(_ALL, Step("volumeMounts", True)),
        lambda it: any(".." in str(it.get(field) or "").split("/") for field in _SUB_PATHS),
        " || ".join(f"(has(it.{field}) && it.{field}.split('/').exists(p, p == '..'))" for field in _SUB_PATHS),
        "has '..' in subPath or subPathExpr, which must stay inside of the volume",
    ),
    Refusal(
        _in(_BESIDE, Step("volumeMounts", True)),
        lambda it: it.get("name") == "run",
        "has(it.name) && it.name == 'run'",
        "cannot be mounted: process 1 and the engine speak with each other there",
    ),
    Refusal(
        _in(_ALL, Step("volumeMounts", True)),
        lambda it: it.get("name") == names.VOLUME_NODE_CACHE,
        f"has(it.name) && it.name == '{names.VOLUME_NODE_CACHE}'",
        "cannot be mounted: other pools' checkpoints are there",
    ),
    Refusal(
        ((Step("volumes", True),),),
        lambda it: it.get("name") == names.VOLUME_NODE_CACHE,
        f"has(it.name) && it.name == '{names.VOLUME_NODE_CACHE}'",
        "cannot be set: the node cache is the administrator's (nodeCache of the chart)",
    ),
    Refusal(
        ((Step("securityContext"),), *_in(_ALL, Step("securityContext"))),
        lambda it: isinstance(it.get("seccompProfile"), Mapping) and it["seccompProfile"].get("type") == "Unconfined",
        "has(it.seccompProfile) && has(it.seccompProfile.type) && it.seccompProfile.type == 'Unconfined'",
        "has seccompProfile.type Unconfined, which cannot be set: Vernal sets it where CRIU needs it",
    ),
)


def _begins(text: str) -> str:
    return f"^{text.replace('.', '[.]')}"


def _of(domain: str) -> str:
    """Names of a domain, and of those below it; and what is called like one, as some are."""
    return f"^([^/]+[.])?{domain.replace('.', '[.]')}(/|$)"


OURS = {_begins(f"{names.GROUP}/"): f"Vernal uses names of {names.GROUP}/"}
"""What the labels of a pod must not be called, as a regular expression, and why."""
_RUNTIME = "the container runtime would take orders from it"
_DEVICES = "devices are asked for by spec.resources and spec.resourceClaims"
ANNOTATIONS = OURS | {
    _of("apparmor.security.beta.kubernetes.io"): "Vernal sets AppArmor where CRIU needs it",
    _of("seccomp.security.alpha.kubernetes.io"): "Vernal sets seccomp where CRIU needs it",
    _of("cdi.k8s.io"): _DEVICES,  # nvidia.cdi.k8s.io/ is heeded by NVIDIA's runtime
    _begins("io.kubernetes.cri"): _RUNTIME,  # containerd's and CRI-O's own
    _of("crio.io"): _RUNTIME,
    _of("resources.beta.kubernetes.io"): _RUNTIME,  # classes of caches and disks
    _begins("nri."): _RUNTIME,  # plugins of the runtime: devices, mounts, hooks
    _of("nri.io"): _RUNTIME,
    _of("nri.containerd.io"): _RUNTIME,
    _begins("run.oci."): _RUNTIME,  # crun's, hooks among them
    _begins("io.katacontainers."): _RUNTIME,  # which hypervisor to run, say
    _begins("dev.gvisor."): _RUNTIME,
    _begins("sidecar.istio.io/userVolume"): "Istio would mount what it names, the node's files too",  # userVolumeMount
    _begins("sidecar.istio.io/proxyImage"): "Istio would run the image that it names",
    _begins("config.linkerd.io/proxy-image"): "Linkerd would run the image that it names",
    _begins("config.linkerd.io/init-image"): "Linkerd would run the image that it names",
    _begins("config.linkerd.io/debug-image"): "Linkerd would run the image that it names",
    _begins("vault.hashicorp.com/agent-image"): "Vault's injector would run the image that it names",
}
"""The same of annotations, since others than Kubernetes take orders from them."""

CSI_DRIVERS: set[str] = set()
"""CSI drivers of which pools may have inline volumes. The program fills it before it reads a pool (`--csi-driver`); the
chart hands the same list to its policy (admissionPolicy.csiDrivers).
"""

_CLAIM_INSTEAD = "use a PersistentVolumeClaim: which servers and disks may be mounted is an administrator's decision"
_DISKS = ["awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "fc", "gcePersistentDisk", "glusterfs"]
_DISKS += ["iscsi", "nfs", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd", "scaleIO", "storageos"]
WHY = dict.fromkeys([*_DISKS, "vsphereVolume"], _CLAIM_INSTEAD) | {
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
    "gitRepo": "git would run on the node; use an init container",
    "clusterTrustBundle": "use a configMap",
    "podCertificate": "a checkpoint is process memory, so a worker must hold no key of its own",
    "appArmorProfile": "Vernal sets it where CRIU needs it",
    "seLinuxOptions": "as what a container runs on the node is an administrator's decision",
    "windowsOptions": "workers run on Linux",
    "activeDeadlineSeconds": "workers serve until they are asked to end",
    "workingDir": "process 1 starts where Vernal says",
    "flexVolume": "its driver is a program on the node",
    "envFrom": "its names are not known here, and process 1 would get them; use spec.env",
    "volumeDevices": "workers use file systems; use volumeMounts",
    "exec": "it would run with the capabilities that CRIU needs; use sleep or httpGet, or another container",
    "host": "the kubelet would ask there from the node's network",
    "volumeName": "which volume a claim gets is the cluster's decision; use persistentVolumeClaim",
    "selector": "which volume a claim gets is the cluster's decision; use persistentVolumeClaim",
    "dataSource": "whose data may be copied is the decision of who makes claims; use persistentVolumeClaim",
    "dataSourceRef": "whose data may be copied is the decision of who makes claims; use persistentVolumeClaim",
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
NOT_LISTED = "it is not among the fields that a pool may set (docs/security.md lists them)"


def problems(spec: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a podTemplate.spec, one line each, the field first."""
    yield from _object(ROOT, spec, POD)
    yield from _inline(spec)
    for refusal in REFUSALS:
        for path in refusal.paths:
            for where, found in _ends(ROOT, spec, path):
                if refusal.check(found):
                    yield f"{where} {refusal.said}"


def _inline(spec: Mapping[str, Any]) -> Iterator[str]:
    """Inline CSI volumes of drivers that are not named: such a volume mounts whatever its attributes say."""
    volumes = spec.get("volumes")
    found = [v.get("csi") for v in (volumes if isinstance(volumes, list) else []) if isinstance(v, Mapping)]
    drivers = [csi.get("driver") if isinstance(csi, Mapping) else None for csi in found if csi is not None]
    if strange := [str(driver or "") for driver in drivers if not isinstance(driver, str) or driver not in CSI_DRIVERS]:
        yield (
            f"{ROOT}.volumes: csi cannot be set for the driver {', '.join(strange)}: use a PersistentVolumeClaim, or "
            "have it named in admissionPolicy.csiDrivers of the chart"
        )


def _object(where: str, value: Mapping[str, Any], allowed: Fields) -> Iterator[str]:
    for name, inner in value.items():
        here = f"{where}.{name}"
        if name not in allowed.fields:
            yield f"{here} cannot be set: {WHY.get(name, NOT_LISTED)}"
            continue
        below = allowed.fields[name]
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
    for entry in value:
        if allowed.named and not _name(entry):
            yield f"{where}[].name is missing"
            continue
        is_worker = where == f"{ROOT}.containers" and _name(entry) == names.CONTAINER_WORKER
        yield from _object(f"{where}[{_name(entry)}]", entry, WORKER if is_worker else allowed)


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name")
    return name if isinstance(name, str) else ""


def _ends(where: str, value: Any, path: tuple[Step, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects at the end of a path, by name; none where something is not as it should be, which `_object` says."""
    if not isinstance(value, Mapping):
        return
    if not path:
        yield where, value
        return
    step, rest = path[0], path[1:]
    inner, here = value.get(step.field), f"{where}.{step.field}"
    if not step.each:
        yield from _ends(here, inner, rest)
        return
    for entry in inner if isinstance(inner, list) else []:
        name = _name(entry) if isinstance(entry, Mapping) else ""
        if (not step.name or name == step.name) and (not step.but or name != step.but):
            yield from _ends(f"{here}[{name}]", entry, rest)
