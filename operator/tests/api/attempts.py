"""Ways by which a pool could get at more than its own: the node's files, another image, others' checkpoints.

Each is refused with the sentence here, and docs/security.md lists them. Fields of `spec.podTemplate` are refused by the
chart's policy, and in the same words by the operator where that is not installed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

IMAGE = "registry.example.com/vernal/worker:1"
"""What the test's chart allows: admissionPolicy.images is `[registry.example.com/vernal/]`."""

By = Literal["pod template", "schema", "chart"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A pool whose spec has these fields, what is said, and by whom.

    pod template: policy and operator; schema: CRD and operator; chart: the policy alone, by the chart's values.
    """

    group: str
    name: str
    fields: dict[str, Any]
    says: str
    by: By = "pod template"


FILES, NODE, RIGHTS = "the node's files", "the node's processes, network and kernel", "other people's rights"
IMAGES, OTHERS, PROCESS_1 = "another image", "another namespace, another volume", "process 1 of the worker"
TRUSTED, PATHS = "what is trusted", "paths"


def _pod(**fields: Any) -> dict[str, Any]:
    return {"podTemplate": {"spec": fields}}


def _worker(**fields: Any) -> dict[str, Any]:
    return _pod(containers=[{"name": "worker", **fields}])


def _side(of: str = "containers", **fields: Any) -> dict[str, Any]:
    return _pod(**{of: [{"name": "side", "image": IMAGE, **fields}]})


def _volume(**source: Any) -> dict[str, Any]:
    return _pod(volumes=[{"name": "v", **source}])


def _annotation(name: str) -> dict[str, Any]:
    return {"podTemplate": {"metadata": {"annotations": {name: "x"}}}}


_P = "spec.podTemplate.spec"
_NOT_LISTED = "it is not among the fields that a pool may set (docs/security.md lists them)"
_CLAIM = "use a PersistentVolumeClaim: which servers and disks may be mounted is an administrator's decision"


def _volumes() -> Iterator[Attempt]:
    for source, value, why in (
        ("hostPath", {"path": "/"}, "it would give the pool's creator the node's files"),
        ("nfs", {"server": "s", "path": "/"}, _CLAIM),
        ("flexVolume", {"driver": "d/d"}, "its driver is a program on the node"),
        ("iscsi", {"targetPortal": "t", "iqn": "q", "lun": 0}, _CLAIM),
        ("rbd", {"monitors": ["m"], "image": "i"}, _CLAIM),
        ("cephfs", {"monitors": ["m"]}, _CLAIM),
        ("glusterfs", {"endpoints": "e", "path": "/"}, _CLAIM),
        ("fc", {"wwids": ["w"]}, _CLAIM),
        ("gcePersistentDisk", {"pdName": "d"}, _CLAIM),
        ("awsElasticBlockStore", {"volumeID": "d"}, _CLAIM),
        ("azureFile", {"secretName": "s", "shareName": "s"}, _CLAIM),
        (
            "gitRepo",
            {"repository": "https://example.com/hooks.git"},
            "git would run on the node; use an init container",
        ),
    ):
        yield Attempt(
            FILES, f"a volume of {source}", _volume(**{source: value}), f"{_P}.volumes[v].{source} cannot be set: {why}"
        )


def _of_every_container() -> Iterator[Attempt]:
    for field, value, why in (
        ("privileged", True, "it would give the pool's creator the node"),
        ("procMount", "Unmasked", "it would show the pool's creator the node's /proc"),
        ("appArmorProfile", {"type": "Unconfined"}, "Vernal sets it where CRIU needs it"),
        ("seLinuxOptions", {"type": "spc_t"}, "as what a container runs on the node is an administrator's decision"),
        ("windowsOptions", {"hostProcess": True}, "workers run on Linux"),
    ):
        for kind, fields, at in (
            ("the worker", _worker(securityContext={field: value}), "containers[worker]"),
            ("a sidecar", _side(securityContext={field: value}), "containers[side]"),
            ("an init container", _side("initContainers", securityContext={field: value}), "initContainers[side]"),
        ):
            said = f"{_P}.{at}.securityContext.{field} cannot be set: {why}"
            yield Attempt(NODE, f"`securityContext.{field}` of {kind}", fields, said)


_LOADED = "cannot be set: it would choose what process 1 runs, with the capabilities that CRIU needs"
_TAKEN = "has a mountPath that is where the worker's own programs and files are"


def _process_1() -> Iterator[Attempt]:
    for hook in ("preStop", "postStart"):
        yield Attempt(
            PROCESS_1, f"a command as `{hook}` hook of the worker",
            _worker(lifecycle={hook: {"exec": {"command": ["mount", "/dev/sda1", "/mnt"]}}}),
            f"{_P}.containers[worker].lifecycle.{hook}.exec cannot be set: it would run with the capabilities that CRIU needs",  # noqa: E501
        )  # fmt: skip
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "PYTHONSTARTUP", "OPENSSL_CONF"):
        yield Attempt(
            PROCESS_1, f"`{name}` for the worker's container", _worker(env=[{"name": name, "value": "/mnt/x"}]),
            f"{_P}.containers[worker].env[{name}] {_LOADED}",
        )  # fmt: skip
    yield Attempt(
        PROCESS_1, "`LD_PRELOAD` from a ConfigMap",
        {"env": [{"name": "LD_PRELOAD", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]},
        "spec.env[].name is one that would choose what process 1 runs, which gets what has valueFrom: use value",
        "schema",
    )  # fmt: skip
    yield Attempt(
        TRUSTED, "`VLLM_ATTENTION_BACKEND` from a ConfigMap",
        {"env": [{"name": "VLLM_ATTENTION_BACKEND", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]},
        "spec.env[].valueFrom cannot be set for a name that shapes the engine", "schema",
    )  # fmt: skip
    yield Attempt(
        PROCESS_1, "variables of a ConfigMap, whatever they are called",
        _worker(envFrom=[{"configMapRef": {"name": "c"}}]),
        f"{_P}.containers[worker].envFrom cannot be set: its names are not known here, and process 1 would get them",
    )  # fmt: skip
    for path in ("/", "/usr/bin", "/opt/vernal/criu", "/etc/ld.so.preload", "/lib64", "/proc", "/var/lib/vernal/store",
                 "/var/lib/vernal/node-cache", "//usr", "/mnt/../usr", "/usr/"):  # fmt: skip
        yield Attempt(
            PROCESS_1, f"a volume of the worker at `{path}`", _worker(volumeMounts=[{"name": "v", "mountPath": path}]),
            f"{_P}.containers[worker].volumeMounts[v] {_TAKEN}",
        )  # fmt: skip
    for path in ("/usr/lib/python3", "/var/lib/vernal/kv/../store", "/proc/1"):
        yield Attempt(
            PROCESS_1, f"KV blocks at `{path}`", {"kvTransfer": {"path": path, "storage": {"claimName": "kv"}}},
            "spec.kvTransfer.path must be absolute, in its shortest form, without '..', and none that is where",
            "schema",
        )  # fmt: skip
    for field, value, why in (
        ("image", "registry.example.com/vernal/other:1", "set spec.image instead"),
        ("command", ["sh"], "the worker's process 1 is Vernal's"),
        ("args", ["sh"], "set spec.engineArgs instead"),
        ("workingDir", "/mnt", "process 1 starts where Vernal says"),
        ("livenessProbe", {"exec": {"command": ["sh"]}}, "the worker's probes are Vernal's"),
        ("terminationMessagePath", "/etc/x", "the pool's condition is made of it"),
    ):
        said = f"{_P}.containers[worker].{field} cannot be set: {why}"
        yield Attempt(PROCESS_1, f"`{field}` of the worker", _worker(**{field: value}), said)
    yield Attempt(
        PROCESS_1, "a sidecar that speaks with process 1", _side(volumeMounts=[{"name": "run", "mountPath": "/r"}]),
        f"{_P}.containers[side].volumeMounts[run] cannot be mounted: process 1 and the engine speak with each other",
    )  # fmt: skip


def _node_cache() -> Iterator[Attempt]:
    """What the operator mounts for process 1 alone."""
    mount = {"volumeMounts": [{"name": "vernal-node-cache", "mountPath": "/mnt/cache"}]}
    said = "volumeMounts[vernal-node-cache] cannot be mounted: other pools' checkpoints are there"
    for of, fields, at in (
        ("the worker", _worker(**mount), "containers[worker]"),
        ("a sidecar", _side(**mount), "containers[side]"),
        ("an init container", _side("initContainers", **mount), "initContainers[side]"),
    ):
        yield Attempt(FILES, f"the node cache in {of}", fields, f"{_P}.{at}.{said}")
    yield Attempt(
        FILES, "a volume in the node cache's place",
        {"podTemplate": {"spec": {"volumes": [{"name": "vernal-node-cache", "emptyDir": {}}]}}},
        f"{_P}.volumes[vernal-node-cache] cannot be set: the node cache is the administrator's",
    )  # fmt: skip


_OWN = "must be the name of a {} in the pool's own namespace: lower-case letters, digits, '-' and '.'"
_OUTSIDE = "must be relative to the claim's root, without '..'"


def _others() -> Iterator[Attempt]:
    for what, fields in (
        ("checkpoint.storage", {"checkpoint": {"storage": {"claimName": "other/store"}}}),
        ("model.source.claim", {"model": {"name": "m", "source": {"claim": {"claimName": "other/models"}}}}),
        ("kvTransfer.storage", {"kvTransfer": {"storage": {"claimName": "other/kv"}}}),
    ):
        said = f"claimName {_OWN.format('PersistentVolumeClaim')}"
        yield Attempt(OTHERS, f"a claim of another namespace: `spec.{what}`", fields, said, "schema")
    for what, fields, kind in (
        (
            "checkpoint.signingKey",
            {"checkpoint": {"storage": {"claimName": "c"}, "signingKey": {"name": "other/s", "key": "k"}}},
            "Secret",
        ),
        (
            "checkpoint.storage.objectStore.credentialsSecret",
            {"checkpoint": {"storage": {"objectStore": {"url": "s3://bucket", "credentialsSecret": {"name": "o/s"}}}}},
            "Secret",
        ),
        ("drain.tokenSecret", {"drain": {"tokenSecret": {"name": "other/s", "key": "k"}}}, "Secret or ConfigMap"),
        (
            "env",
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "other/s", "key": "k"}}}]},
            "Secret or ConfigMap",
        ),
    ):
        said = f"name {_OWN.format(kind)}"
        yield Attempt(OTHERS, f"a Secret of another namespace: `spec.{what}`", fields, said, "schema")
    template = "volumes[v].ephemeral.volumeClaimTemplate.spec"
    cluster = "which volume a claim gets is the cluster's decision; use persistentVolumeClaim"
    copied = "whose data may be copied is the decision of who makes claims; use persistentVolumeClaim"
    for field, value, why in (
        ("volumeName", "pv-of-others", cluster),
        ("selector", {"matchLabels": {"of": "others"}}, cluster),
        ("dataSource", {"kind": "PersistentVolumeClaim", "name": "others"}, copied),
        ("dataSourceRef", {"kind": "PersistentVolumeClaim", "name": "s", "namespace": "other"}, copied),
    ):
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, field: value}
        fields = _volume(ephemeral={"volumeClaimTemplate": {"spec": spec}})
        yield Attempt(
            OTHERS, f"an ephemeral volume with `{field}`", fields, f"{_P}.{template}.{field} cannot be set: {why}"
        )
    for of, fields in (
        ("the worker", _worker(volumeDevices=[{"name": "v", "devicePath": "/dev/x"}])),
        ("a sidecar", _side(volumeDevices=[{"name": "v", "devicePath": "/dev/x"}])),
    ):
        said = "volumeDevices cannot be set: workers use file systems; use volumeMounts"
        yield Attempt(OTHERS, f"a raw block device for {of}", fields, said)


def _rights() -> Iterator[Attempt]:
    token = "a checkpoint is process memory, so a worker must hold no token"
    account = "the pool's creator would act with its rights, and a checkpoint is process memory"
    for field, value, why in (
        ("serviceAccountName", "builder", account),
        ("serviceAccount", "builder", account),
        ("automountServiceAccountToken", True, token),
    ):
        yield Attempt(RIGHTS, f"`{field}`", _pod(**{field: value}), f"{_P}.{field} cannot be set: {why}")
    for source, value, why in (
        ("serviceAccountToken", {"path": "t"}, token),
        ("clusterTrustBundle", {"name": "b", "path": "p"}, "use a configMap"),
        (
            "podCertificate",
            {"signerName": "a/b", "keyType": "ED25519"},
            "a checkpoint is process memory, so a worker must hold no key of its own",
        ),
    ):
        said = f"{_P}.volumes[v].projected.sources[].{source} cannot be set: {why}"
        yield Attempt(RIGHTS, f"a projected {source}", _volume(projected={"sources": [{source: value}]}), said)


def _node() -> Iterator[Attempt]:
    for field, value, why in (
        ("hostNetwork", True, "it would give the pool's creator the node's network"),
        ("hostPID", True, "it would give the pool's creator the node's processes"),
        ("hostIPC", True, "it would give the pool's creator the node's shared memory"),
        ("hostUsers", False, "CRIU needs the node's user namespace"),
        ("nodeName", "n1", "it goes past the scheduler and its taints; use nodeSelector or affinity"),
        (
            "shareProcessNamespace",
            True,
            "other containers could read the engine's memory, and CRIU needs the PIDs for itself",
        ),
        ("resourceClaims", [{"name": "c", "resourceClaimName": "c"}], "set spec.resourceClaims instead"),
        ("terminationGracePeriodSeconds", 5, "set spec.terminationGracePeriodSeconds instead"),
        ("restartPolicy", "Never", "workers are always restarted in place"),
        ("ephemeralContainers", [{"name": "d", "image": IMAGE}], "use `kubectl debug`"),
        ("activeDeadlineSeconds", 5, "workers serve until they are asked to end"),
        ("aFieldOfATomorrow", {}, _NOT_LISTED),
    ):
        yield Attempt(NODE, f"`{field}`", _pod(**{field: value}), f"{_P}.{field} cannot be set: {why}")
    for field, value, why in (
        ("sysctls", [{"name": "kernel.shmmax", "value": "1"}], "they are the node's"),
        ("appArmorProfile", {"type": "Unconfined"}, "Vernal sets it where CRIU needs it"),
        ("seLinuxOptions", {"type": "spc_t"}, "as what a container runs on the node is an administrator's decision"),
        ("windowsOptions", {"hostProcess": True}, "workers run on Linux"),
    ):
        said = f"{_P}.securityContext.{field} cannot be set: {why}"
        yield Attempt(NODE, f"`securityContext.{field}` of the pod", _pod(securityContext={field: value}), said)
    loose = "has seccompProfile.type Unconfined, which cannot be set: Vernal sets it where CRIU needs it"
    profile = {"seccompProfile": {"type": "Unconfined"}}
    yield Attempt(NODE, "a pod without seccomp", _pod(securityContext=profile), f"{_P}.securityContext {loose}")
    yield Attempt(
        NODE,
        "a sidecar without seccomp",
        _side(securityContext=profile),
        f"{_P}.containers[side].securityContext {loose}",
    )
    for of, at in (("containers", "containers[side]"), ("initContainers", "initContainers[side]")):
        fields = _side(of, securityContext={"capabilities": {"add": ["SYS_MODULE"]}})
        said = f"{_P}.{at}.securityContext.capabilities.add cannot be set: Vernal adds what a worker needs"
        yield Attempt(NODE, f"a capability, in `{of}`", fields, said)
    fields = _worker(securityContext={"capabilities": {"add": ["SYS_MODULE"]}})
    said = f"{_P}.containers[worker].securityContext.capabilities.add cannot be set: Vernal adds what a worker needs"
    yield Attempt(NODE, "a capability for the worker", fields, said)
    mount = [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]
    propagation = "mountPropagation cannot be set: mounts of a container must not appear on the node"
    yield Attempt(
        NODE,
        "mounts that appear on the node",
        _side(volumeMounts=mount),
        f"{_P}.containers[side].volumeMounts[v].{propagation}",
    )
    yield Attempt(
        NODE,
        "the same of the worker",
        _worker(volumeMounts=mount),
        f"{_P}.containers[worker].volumeMounts[v].{propagation}",
    )
    port = "it would give the pool's creator a port of the node"
    for field, value in (("hostPort", 80), ("hostIP", "10.0.0.1")):
        for fields, at in (
            (_worker(ports=[{"name": "p", "containerPort": 1, field: value}]), "worker"),
            (_side(ports=[{"name": "p", "containerPort": 1, field: value}]), "side"),
        ):
            yield Attempt(
                NODE,
                f"`{field}` of the container {at}",
                fields,
                f"{_P}.containers[{at}].ports[p].{field} cannot be set: {port}",
            )
    ask = "host cannot be set: the kubelet would ask there from the node's network"
    http = {"httpGet": {"host": "127.0.0.1", "port": 10250}}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield Attempt(
            NODE,
            f"a {probe} of the node's own ports",
            _side(**{probe: http}),
            f"{_P}.containers[side].{probe}.httpGet.{ask}",
        )
    tcp = {"tcpSocket": {"host": "127.0.0.1", "port": 10250}}
    yield Attempt(
        NODE, "the same by TCP", _side(livenessProbe=tcp), f"{_P}.containers[side].livenessProbe.tcpSocket.{ask}"
    )
    yield Attempt(
        NODE,
        "the same by a hook of the worker",
        _worker(lifecycle={"preStop": http}),
        f"{_P}.containers[worker].lifecycle.preStop.httpGet.{ask}",
    )


def _images() -> Iterator[Attempt]:
    evil = "registry.example.com/vernal-evil/worker:1"
    said = "spec.image and the images of spec.podTemplate.spec must begin with one of registry.example.com/vernal/ (admissionPolicy.images of the chart), not: "  # noqa: E501
    for name, image in (
        ("another image", evil),
        ("an image beside the allowed ones, by `..`", "registry.example.com/vernal/../evil:1"),
        ("an image of another registry by its short name", "vernal/worker:1"),
    ):
        yield Attempt(IMAGES, name, {"image": image}, f"{said}{image}", "chart")
    for name, fields in (
        ("another image in `containers`", _side(image=evil)),
        ("another image in `initContainers`", _side("initContainers", image=evil)),
        ("another image as a volume", _volume(image={"reference": evil})),
    ):
        yield Attempt(IMAGES, name, fields, f"{said}{evil}", "chart")
    yield Attempt(
        FILES, "an inline CSI volume", _volume(csi={"driver": "nfs.csi.k8s.io", "volumeAttributes": {"server": "s"}}),
        "spec.podTemplate.spec.volumes: csi cannot be set for the driver nfs.csi.k8s.io: use a PersistentVolumeClaim, "
        "or have it named in admissionPolicy.csiDrivers of the chart",
    )  # fmt: skip


def _trusted() -> Iterator[Attempt]:
    ours = "cannot be set: Vernal uses names of vernal.dev/"
    labels = {"podTemplate": {"metadata": {"labels": {"vernal.dev/pool": "other"}}}}
    yield Attempt(TRUSTED, "to be another pool's pod, by label", labels, f"vernal.dev/pool {ours}")
    runtime = "cannot be set: the container runtime would take orders from it"
    devices = "cannot be set: devices are asked for by spec.resources and spec.resourceClaims"
    seccomp = "cannot be set: Vernal sets seccomp where CRIU needs it"
    for name, why in (
        ("vernal.dev/renew-checkpoint", ours),
        (
            "container.apparmor.security.beta.kubernetes.io/side",
            "cannot be set: Vernal sets AppArmor where CRIU needs it",
        ),
        ("io.kubernetes.cri-o.Devices", runtime),
        ("cdi.k8s.io/gpu", devices),
        ("nvidia.cdi.k8s.io/gpu", devices),
        ("vendor.example.cdi.k8s.io/gpu", devices),
        ("io.kubernetes.cri.untrusted-workload", runtime),
        ("irq-load-balancing.crio.io", runtime),
        ("devices.nri.io/container.worker", runtime),
        ("devices.nri.containerd.io/container.worker", runtime),
        ("nri.example/x", runtime),
        ("blockio.resources.beta.kubernetes.io/pod", runtime),
        ("run.oci.hooks.stdout", runtime),
        ("io.katacontainers.config.hypervisor.path", runtime),
        ("dev.gvisor.spec.mount.x", runtime),
        ("container.seccomp.security.alpha.kubernetes.io/worker", seccomp),
        ("seccomp.security.alpha.kubernetes.io/pod", seccomp),
        ("sidecar.istio.io/userVolume", "cannot be set: Istio would mount what it names, the node's files too"),
        ("sidecar.istio.io/proxyImage", "cannot be set: Istio would run the image that it names"),
        ("config.linkerd.io/proxy-image", "cannot be set: Linkerd would run the image that it names"),
        ("config.linkerd.io/init-image", "cannot be set: Linkerd would run the image that it names"),
        ("config.linkerd.io/debug-image", "cannot be set: Linkerd would run the image that it names"),
        ("vault.hashicorp.com/agent-image", "cannot be set: Vault's injector would run the image that it names"),
    ):
        yield Attempt(TRUSTED, f"the annotation `{name}`", _annotation(name), f"{name} {why}")
    variable = [{"name": "VERNAL_CONFIG", "value": "{}"}]
    used = "cannot be set: Vernal uses names that start with VERNAL_"
    yield Attempt(
        TRUSTED,
        "`VERNAL_CONFIG` of the worker",
        _worker(env=variable),
        f"{_P}.containers[worker].env[VERNAL_CONFIG] {used}",
    )
    yield Attempt(
        TRUSTED, "`VERNAL_CONFIG` of a sidecar", _side(env=variable), f"{_P}.containers[side].env[VERNAL_CONFIG] {used}"
    )
    yield Attempt(
        TRUSTED, "`VERNAL_CRIU` in `spec.env`", {"env": [{"name": "VERNAL_CRIU", "value": "/mnt/criu"}]},
        "spec.env[].name must not start with VERNAL_, which Vernal uses", "schema",
    )  # fmt: skip
    for name, value, why in (
        ("model", "/etc", "spec.model says which model"),
        ("config", "/etc/x.yaml", "what is in a file of arguments could not be told apart"),
        ("uds", "/run/vernal/x", "the worker opens the port itself"),
        ("worker_extension_cls", "evil.Extension", "Vernal reaches vLLM's workers through it"),
        ("ssl_keyfile", "/mnt/key", "a private key would be in the checkpoint"),
    ):
        said = f"spec.engineArgs.{name} cannot be set: {why}"
        yield Attempt(TRUSTED, f"the engine argument `{name}`", {"engineArgs": {name: value}}, said, "schema")


def _paths() -> Iterator[Attempt]:
    for what, fields, said in (
        (
            "checkpoint.storage.subPath",
            {"checkpoint": {"storage": {"claimName": "c", "subPath": "../.."}}},
            f"subPath {_OUTSIDE}",
        ),
        (
            "kvTransfer.storage.subPath",
            {"kvTransfer": {"storage": {"claimName": "k", "subPath": "a/../../b"}}},
            f"subPath {_OUTSIDE}",
        ),
        (
            "model.source.claim.path",
            {"model": {"name": "m", "source": {"claim": {"claimName": "c", "path": "../x"}}}},
            f"path {_OUTSIDE}",
        ),
        (
            "model.source.image.path",
            {"model": {"name": "m", "source": {"image": {"path": "/m/../../x"}}}},
            "path must be without '..'",
        ),
    ):
        yield Attempt(PATHS, f"`..` in `spec.{what}`", fields, said, "schema")
    for field in ("subPath", "subPathExpr"):
        for of, fields, at in (
            ("the worker", _worker(volumeMounts=[{"name": "v", "mountPath": "/mnt/v", field: "../.."}]), "worker"),
            ("a sidecar", _side(volumeMounts=[{"name": "v", "mountPath": "/mnt/v", field: "a/../.."}]), "side"),
        ):
            said = f"{_P}.containers[{at}].volumeMounts[v] has '..' in subPath or subPathExpr"
            yield Attempt(PATHS, f"`..` in `{field}` of {of}", fields, said)


def attempts() -> list[Attempt]:
    """All, in the order of the page."""
    found = [
        *_volumes(), *_node_cache(), *_images(), *_node(), *_of_every_container(), *_rights(), *_others(),
        *_process_1(), *_trusted(), *_paths(),
    ]  # fmt: skip
    groups = list(dict.fromkeys(one.group for one in found))
    return sorted(found, key=lambda one: groups.index(one.group))


ATTEMPTS = {f"{one.group}: {one.name}": one for one in attempts()}


def table() -> str:
    """What docs/security.md has of them."""
    rows = ["| way to | attempt | answer |", "|---|---|---|"]
    rows += [f"| {one.group} | {one.name} | {one.says.replace('|', chr(92) + '|')} |" for one in attempts()]
    return "\n".join(rows) + "\n"
