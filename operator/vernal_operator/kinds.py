"""The kinds of API objects that the operator touches, and their addresses on the API server."""

from dataclasses import dataclass
from urllib.parse import quote

from vernal_contract import names


@dataclass(frozen=True, slots=True)
class Kind:
    """A namespaced kind (or, for `NAMESPACES` and `NODES`, a cluster-scoped one)."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Path on the API server; without `namespace` that of all namespaces together."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(quote(part, safe="") for part in parts)


POOLS = Kind(names.GROUP, names.VERSION, "VLLMWorkerPool", "vllmworkerpools")
CHECKPOINTS = Kind(names.GROUP, names.VERSION, "VLLMCheckpoint", "vllmcheckpoints")
PODS = Kind("", "v1", "Pod", "pods")
SERVICES = Kind("", "v1", "Service", "services")
CLAIMS = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NAMESPACES = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
NODES = Kind("", "v1", "Node", "nodes", namespaced=False)
BUDGETS = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
AUTOSCALERS = Kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
REVISIONS = Kind("apps", "v1", "ControllerRevision", "controllerrevisions")
JOBS = Kind("batch", "v1", "Job", "jobs")
CRONJOBS = Kind("batch", "v1", "CronJob", "cronjobs")
LEASES = Kind("coordination.k8s.io", "v1", "Lease", "leases")
EVENTS = Kind("events.k8s.io", "v1", "Event", "events")

SLICES = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")

CHILDREN = (SERVICES, BUDGETS, AUTOSCALERS, SLICES, CRONJOBS)
"""What a pool owns besides pods: applied by the operator, watched by label."""

BY_NAME = {kind.name: kind for kind in (POOLS, CHECKPOINTS, PODS, *CHILDREN, REVISIONS, JOBS)}
"""The kinds that plans name in manifests and references."""


@dataclass(frozen=True, slots=True)
class Key:
    """One pool or checkpoint: what is reconciled at a time."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.name} {self.namespace}/{self.name}"
