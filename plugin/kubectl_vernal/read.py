"""Reads what a verb needs, once. Views compute over the `World` that comes of it and read nothing themselves."""

import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from vernal_contract import names

from kubectl_vernal.cluster import Cluster, Object, path
from kubectl_vernal.errors import ApiError, NotFoundError
from kubectl_vernal.output import when

POOLS = "vllmworkerpools"
CHECKPOINTS = "vllmcheckpoints"

_GROUPS = {
    POOLS: names.API_VERSION,
    CHECKPOINTS: names.API_VERSION,
    "controllerrevisions": "apps/v1",
    "deployments": "apps/v1",
    "horizontalpodautoscalers": "autoscaling/v2",
    "poddisruptionbudgets": "policy/v1",
    "leases": "coordination.k8s.io/v1",
    "events": "events.k8s.io/v1",
    "jobs": "batch/v1",
    "customresourcedefinitions": "apiextensions.k8s.io/v1",
}
_CLUSTER_WIDE = ("nodes", "customresourcedefinitions")
_AT_ONCE = 16  # workers asked at a time


@dataclass(frozen=True)
class World:
    """Objects as the API server returned them.

    Attributes:
        now: when they were read, seconds since the epoch.
        objects: by plural name of their kind.
        states: what workers answered to `GET /state`, by "namespace/pod".
        silent: why a worker was not heard, by "namespace/pod".
        unread: why a kind could not be read, by plural name.
    """

    now: float
    objects: Mapping[str, list[Object]] = field(default_factory=dict)
    states: Mapping[str, Object] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    def of(self, kind: str) -> list[Object]:
        return self.objects.get(kind, [])

    def pods_of(self, pool: Object) -> list[Object]:
        """A pool's workers, the oldest first."""
        found = [
            pod
            for pod in self.of("pods")
            if namespace(pod) == namespace(pool) and labels(pod).get(names.LABEL_POOL) == name(pool)
        ]
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], name(pod)))

    def state(self, pod: Object) -> Object | None:
        return self.states.get(key(pod))

    def pool(self, wanted_namespace: str, wanted: str) -> Object | None:
        for pool in self.of(POOLS):
            if (namespace(pool), name(pool)) == (wanted_namespace, wanted):
                return pool
        return None

    def age(self, item: Object) -> float:
        return self.now - (when(item["metadata"]["creationTimestamp"]) or self.now)


def name(item: Object) -> str:
    return str(item["metadata"]["name"])


def namespace(item: Object) -> str:
    return str(item["metadata"].get("namespace", ""))


def key(item: Object) -> str:
    return f"{namespace(item)}/{name(item)}"


def labels(item: Object) -> dict[str, str]:
    found: dict[str, str] = item["metadata"].get("labels") or {}
    return found


def condition(item: Object, kind: str) -> Object:
    """A condition of an object; {} if it has none such."""
    for entry in (item.get("status") or {}).get("conditions") or ():
        if entry["type"] == kind:
            return dict(entry)
    return {}


def worker_status(pod: Object) -> Object:
    """The containerStatus of the worker's container; {} before the kubelet has said any."""
    for entry in (pod.get("status") or {}).get("containerStatuses") or ():
        if entry["name"] == names.CONTAINER_WORKER:
            return dict(entry)
    return {}


def world(
    cluster: Cluster,
    where: str | None,
    kinds: Iterable[str],
    *,
    states: bool = False,
    pool: str = "",
    pod: str = "",
    admin_port: int = names.PORT_ADMIN,
) -> World:
    """Read whole kinds, in one namespace or, with `where` None, in all.

    A kind that may not be read is left out and told (`World.unread`), but for the first, without which there is nothing
    to say.

    Args:
        states: ask the workers, too: `GET /state` through the API server's proxy (needs `get` on pods/proxy).
        pool: of pods, only those of this pool.
        pod: of pods, only this one.
    """
    objects: dict[str, list[Object]] = {}
    unread: dict[str, str] = {}
    for number, kind in enumerate(kinds):
        query = _selector(kind, pool, pod)
        try:
            objects[kind] = cluster.items(_list_path(kind, where), query)
        except ApiError as error:
            if not number:
                raise _explained(error, kind) from None
            if error.status not in (403, 404):
                raise
            unread[kind] = str(error)
    heard: dict[str, Object] = {}
    silent: dict[str, str] = {}
    if states:
        running = [item for item in objects.get("pods", ()) if (item.get("status") or {}).get("podIP")]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for item, answer in zip(running, threads.map(lambda p: _ask(cluster, p, admin_port), running), strict=True):
                if isinstance(answer, str):
                    silent[key(item)] = answer
                else:
                    heard[key(item)] = answer
    return World(time.time(), objects, heard, silent, unread)


def one(cluster: Cluster, kind: str, where: str, called: str) -> Object:
    """One object; of pods, one of a pool.

    Raises:
        NotFoundError: there is none of the name; says what there is.
    """
    try:
        found = cluster.get(path(kind, where, called, group=_GROUPS.get(kind, "")))
        if kind != "pods" or names.LABEL_POOL in labels(found):
            return found
    except ApiError as error:
        if error.status != 404:
            raise _explained(error, kind) from None
    query = {"labelSelector": names.LABEL_POOL} if kind == "pods" else {}
    there = [name(item) for item in cluster.items(_list_path(kind, where), query)]
    known = f"there are {', '.join(there[:10])}" if there else "there are none; -n NAMESPACE looks elsewhere"
    word = {"pods": "pod of a pool", POOLS: "pool"}.get(kind, kind)
    raise NotFoundError(f"no {word} {called!r} in namespace {where}: {known}")


def object_path(kind: str, item: Object, subresource: str = "") -> str:
    return path(kind, namespace(item), name(item), subresource, _GROUPS.get(kind, ""))


def _list_path(kind: str, where: str | None) -> str:
    return path(kind, None if kind in _CLUSTER_WIDE else where, group=_GROUPS.get(kind, ""))


def _selector(kind: str, pool: str, pod: str) -> dict[str, str]:
    if kind == "pods":
        selector = f"{names.LABEL_POOL}={pool}" if pool else names.LABEL_POOL
        return {"labelSelector": selector, **({"fieldSelector": f"metadata.name={pod}"} if pod else {})}
    if kind == "controllerrevisions":
        return {"labelSelector": f"{names.LABEL_POOL}={pool}" if pool else names.LABEL_POOL}
    return {}


def _ask(cluster: Cluster, pod: Object, port: int) -> Object | str:
    """A worker's state, or why there is none."""
    address = path("pods", namespace(pod), f"{name(pod)}:{port}", "proxy") + "/state"
    try:
        found: Object = json.loads(cluster.text(address))
    except ApiError as error:
        if error.status == 403:
            return "you may not read it: `get` on pods/proxy in this namespace is missing"
        return f"no answer on its admin port: {error}"
    except (ValueError, RecursionError):
        return "what it answered is no state"
    return found


def _explained(error: ApiError, kind: str) -> ApiError:
    if error.status == 404 and kind in (POOLS, CHECKPOINTS):
        return ApiError(404, f"this cluster has no {kind}.{names.GROUP}: install the chart, or `kubectl vernal doctor`")
    return error


def plain(value: Any) -> Any:
    """As JSON, so that a view's answer can be dumped."""
    return json.loads(json.dumps(value))
