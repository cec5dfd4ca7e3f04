"""One namespace, one operator behind one proxy: what every control-plane test is made of."""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kubernetes
import yaml
from controlplane.node import Node
from controlplane.proxy import FaultProxy
from controlplane.zygote import Clock, Operator, Zygote
from patience import GUARD_SECONDS, until
from vernal_contract import names
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import (
    AUTOSCALERS,
    BUDGETS,
    CHECKPOINTS,
    CRONJOBS,
    EVENTS,
    JOBS,
    PODS,
    POOLS,
    REVISIONS,
    SERVICES,
    Kind,
)

POOL = "pool"
SYSTEM = "vernal-system"
CORE = {
    "ServiceAccount": Kind("", "v1", "ServiceAccount", "serviceaccounts"),
    "PersistentVolumeClaim": Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    "Namespace": Kind("", "v1", "Namespace", "namespaces", namespaced=False),
}
METRIC = {
    "type": "Pods",
    "pods": {
        "metric": {"name": "vernal_worker_requests_in_flight"},
        "target": {"type": "AverageValue", "averageValue": "16"},
    },
}


def admin(kubeconfig: Path) -> Client:
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    configuration.connection_pool_maxsize = 256
    return Client(kubernetes.client.ApiClient(configuration), timeout=GUARD_SECONDS)


def refusal(client: Client, kind: Kind, namespace: str, **fields: Any) -> str:
    """What the API server says against an object with these fields, which is not made; "" if it would take it.

    What decides that (quotas, limits, labels of the namespace, webhooks) it is told of by watches of its own, some time
    after the write was answered.
    """
    body = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": "probe"}, **fields}
    try:
        client._json("create", kind, kind.path(namespace), {"dryRun": "All"}, body)
    except ApiError as error:
        return error.sentence
    return ""


def pool(**spec: Any) -> dict[str, Any]:
    base = {
        "replicas": 2,
        "image": "worker:1",
        "model": {"name": "tiny"},
        "checkpoint": {"storage": {"claimName": "store"}},
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": POOLS.name,
        "metadata": {"name": POOL},
        "spec": base | spec,
    }


@dataclass
class Server:
    """What the tests share: the API server, the node and the operator's identity there."""

    client: Client
    url: str
    ca: Path
    token: str
    zygote: Zygote
    node: Node
    directory: Path
    helm: str


class Case:
    """A namespace with an operator of its own. Use as a context manager."""

    def __init__(
        self,
        server: Server,
        namespace: str,
        *args: str,
        all_namespaces: bool = False,
        clock: Clock | None = None,
        patience: float = GUARD_SECONDS,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`env`: of the operator, beside KUBECONFIG."""
        self.server, self.namespace, self.client = server, namespace, server.client
        self.zygote, self.clock, self.patience, self._env = server.zygote, clock, patience, env
        self.proxy = FaultProxy(server.url, server.ca)
        where = ["--all-namespaces"] if all_namespaces else ["--namespace", namespace]
        lease = [f"--lease={SYSTEM}/{namespace}", f"--identity={namespace}"]  # restarted in place: no need to wait
        self._args = ["run", *where, *lease, "--metrics-port=0", f"--admin-port={server.node.port}", *args]
        self._kubeconfig = server.directory / f"{namespace}.kubeconfig"
        self.use(server.token)
        self.log = server.directory / f"{namespace}.log"
        self.operator: Operator | None = None
        self.starts = 0
        self.invariants = Invariants(self)

    def __enter__(self) -> "Case":
        self.client.create(
            CORE["Namespace"],
            "",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}},
        )
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        self.client.create(CORE["ServiceAccount"], self.namespace, account)
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "store"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        self.client.create(CORE["PersistentVolumeClaim"], self.namespace, claim)
        self.invariants.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.operator is not None:
            self.operator.kill()
        self.proxy.close()
        self.invariants.stop()

    def use(self, token: str) -> None:
        """Who the operator is from its next start on."""
        self._kubeconfig.write_text(yaml.dump(kubeconfig(self.proxy.url, token)))

    def start(self) -> None:
        self.operator = self.zygote.start(self._args, self._kubeconfig, self.log, self.clock, self._env)
        self.starts += 1

    def restart(self) -> None:
        """Kill what is left of the operator and start it anew, once its ports are free."""
        if (old := self.operator) is not None:
            old.kill()
            until("the killed operator to be gone", lambda: not old.alive)
        self.start()

    # -- the user ---

    def create(self, manifest: dict[str, Any]) -> None:
        self.client.create(POOLS, self.namespace, manifest)

    def change(self, **spec: Any) -> None:
        self.client.patch(POOLS, self.namespace, POOL, {"spec": spec})

    def delete_pool(self) -> None:
        """Delete the pool and, as the garbage collector would, what it owns."""
        found = self.client.get(POOLS, self.namespace, POOL)
        self.client.delete(POOLS, self.namespace, POOL, found["metadata"]["uid"])
        for kind in (PODS, SERVICES, BUDGETS, AUTOSCALERS, REVISIONS, CRONJOBS):
            for item in self.items(kind):
                if any(owner["uid"] == found["metadata"]["uid"] for owner in owners(item)):
                    try:
                        self.client.delete(kind, self.namespace, item["metadata"]["name"], item["metadata"]["uid"])
                    except ApiError as error:
                        if not error.not_found:  # it went by itself
                            raise

    def expect(self, *, most: int | None = None, fewest_ready: int | None = None) -> None:
        """From now on so many pods at most, and so many ready ones, at every event. What was before need not have been
        so: it is waited for until it was seen.
        """
        self.wait("what was before to be seen", lambda: self.invariants.knows(self.items(PODS)))
        if most is not None:
            self.invariants.most = most
        if fewest_ready is not None:
            self.invariants.fewest_ready = fewest_ready

    # -- looking ---

    def items(self, kind: Kind) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.client.list_page(kind, self.namespace, {}))["items"]
        return sorted(found, key=lambda item: str(item["metadata"]["name"]))

    def get_pool(self) -> dict[str, Any]:
        return self.client.get(POOLS, self.namespace, POOL)

    def settled(self, replicas: int) -> bool:
        """As many ready pods of the wanted revision as are wanted, the checkpoint known, and status says so."""
        try:
            found = self.get_pool()
        except ApiError:
            return False
        status = found.get("status", {})
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and (status.get("readyReplicas"), status.get("updatedReplicas"), status.get("replicas")) == (replicas,) * 3
            and condition(found, "Progressing") == "False"
            and (replicas == 0 or condition(found, "CheckpointReady") == "True")
            and status["restoredReplicas"] + status["coldStartedReplicas"] == replicas
            and len(self.items(PODS)) == replicas
            and all("status" in checkpoint for checkpoint in self.items(CHECKPOINTS))  # a plan of its own writes it
            and self._is_used(status.get("checkpoint"), found["metadata"]["name"])
        )

    def _is_used(self, reference: dict[str, Any] | None, user: str) -> bool:
        """Whether the checkpoint that a pool refers to says so, too."""
        return reference is None or any(
            user in item.get("status", {}).get("usedBy", ())
            for item in self.items(CHECKPOINTS)
            if item["metadata"]["name"] == reference["name"]
        )

    def serves(self, ready: int, starting: int) -> bool:
        """So many pods are ready, so many of the wanted revision are not, no other is there, and status says so."""
        found = self.get_pool()
        status, pods = found.get("status", {}), self.items(PODS)
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and (status.get("readyReplicas"), status.get("replicas")) == (ready, ready + starting)
            and status.get("updatedReplicas") == starting
            and (sum(condition(pod, "Ready") == "True" for pod in pods), len(pods)) == (ready, ready + starting)
        )

    def wait(self, what: str, probe: Callable[[], bool]) -> None:
        timeout = self.patience
        deadline = time.monotonic() + timeout
        while not probe():
            self.server.node.check()
            if time.monotonic() > deadline:
                tail = self.log.read_text()[-3000:] if self.log.exists() else ""
                state = yaml.dump(self.picture())
                alive = self.operator is not None and self.operator.alive
                calls = "\n".join(str(call) for call in self.proxy.calls[-20:])
                raise AssertionError(
                    f"{self.namespace}: {what}: not within {timeout} s; operator started {self.starts} times, "
                    f"{'alive' if alive else 'dead'}\n{state}\n{calls}\n{tail}"
                )
            time.sleep(0.6)  # dozens of cases do this at a time

    def wait_event(self, reason: str, note: str = "") -> dict[str, Any]:
        """The only Event with this reason, and this in its note. Events are posted after what they tell of, the status
        too.
        """

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events() if event["reason"] == reason and note in event["note"]]

        self.wait(f"the Event {reason} {note}", lambda: bool(found()))
        (event,) = found()
        return event

    def forbidden(self) -> list[str]:
        """Calls that the role does not allow, but for one that an operator of one namespace makes to find out.

        An operator of all namespaces looks after what other tests left, too, where a quota or a policy may forbid it
        something.
        """
        answers = [call for call in self.proxy.calls if call.status == 403]
        ours = f"/namespaces/{self.namespace}/"
        return [str(call) for call in answers if ours in call.path or "/namespaces/" not in call.path]

    def wait_settled(self, replicas: int) -> None:
        self.wait(f"{replicas} settled replicas", lambda: self.settled(replicas))

    def wait_same(
        self, reference: dict[str, Any], view: Callable[[dict[str, Any]], dict[str, Any]] = lambda picture: picture
    ) -> None:
        """Wait until all that `view` shows is as in another run. A dead operator is started again."""
        deadline = time.monotonic() + self.patience
        reference = view(reference)
        while (found := view(self.picture())) != reference:
            self.server.node.check()
            if self.operator is None or not self.operator.alive:
                self.restart()
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.namespace}: {difference(reference, found)}\n{self.log.read_text()[-3000:]}"
                )
            time.sleep(1.0)

    def assert_quiet(self, seconds: float) -> None:
        """`seconds` go by without a call but watches and lists, from now on or from the end of the last one.

        An operator that is slow is waited for. One that does not rest in `patience` fails.
        """
        began = time.monotonic()
        while True:
            calls = [call for call in self.proxy.others(began) if not call.is_discovery]
            now = time.monotonic()
            last = max([min(call.over, now) for call in calls], default=began)
            if (left := last + seconds - now) <= 0:
                return
            assert last - began < self.patience, f"{self.namespace}: never quiet: {[str(call) for call in calls[-20:]]}"
            time.sleep(left)

    def picture(self) -> dict[str, Any]:
        """All that the operator is answerable for, without what differs from run to run."""
        found = {
            kind.name: self.items(kind)
            for kind in (POOLS, CHECKPOINTS, PODS, SERVICES, BUDGETS, AUTOSCALERS, REVISIONS, JOBS, CRONJOBS)
        }
        for pod in found[PODS.name]:  # which of the slots are taken depends on the order of events
            del pod["metadata"]["name"], pod["metadata"]["labels"][names.LABEL_SLOT]
        for item in found[POOLS.name]:  # which pods stay depends on when each was last asked what it does
            status = item.get("status", {})
            status["started"] = status.pop("restoredReplicas", 0) + status.pop("coldStartedReplicas", 0)
        there = {item["metadata"]["uid"] for items in found.values() for item in items}
        return {  # without what the garbage collector, which is not here, would remove
            kind: [scrub(i, self.namespace) for i in items if all(o["uid"] in there for o in owners(i))]
            for kind, items in found.items()
        }

    def events(self) -> list[dict[str, Any]]:
        return self.items(EVENTS)


class Invariants(threading.Thread):
    """Watches a namespace past the proxy and notes every moment at which something is not as it must always be."""

    def __init__(self, case: Case) -> None:
        super().__init__(daemon=True)
        self._case = case
        self._stopped = threading.Event()
        self.most = 10**9  # pods that are neither terminating nor over; to be set by `Case.expect`
        self.fewest_ready = 0
        self.broken: list[str] = []
        self._failure: BaseException | None = None
        self._pods: dict[str, dict[str, Any]] = {}

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        try:
            self._watch()
        except BaseException as error:
            self._failure = error
            raise

    def _watch(self) -> None:
        client, namespace = self._case.client, self._case.namespace
        while not self._stopped.is_set():
            try:
                listed = json.loads(client.list_page(PODS, namespace, {}))
                self._pods = {item["metadata"]["uid"]: item for item in listed["items"]}
                query = {"resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "60"}
                with client.watch(PODS, namespace, query, idle=90) as watch:
                    for line in watch:
                        event = json.loads(line)
                        self._take(event["type"], event["object"])
            except ApiError:
                time.sleep(0.2)

    def _take(self, kind: str, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._pods.pop(uid, None)
        else:
            self._pods[uid] = pod
        alive = [p for p in self._pods.values() if not p["metadata"].get("deletionTimestamp")]
        if kind == "ADDED" and len(alive) > self.most:
            self.broken.append(f"{len(alive)} pods, at most {self.most} allowed, after {pod['metadata']['name']}")
        ready = [p for p in alive if condition(p, "Ready") == "True"]
        if len(ready) < self.fewest_ready:
            self.broken.append(f"{len(ready)} ready pods, at least {self.fewest_ready} wanted")

    def knows(self, pods: list[dict[str, Any]]) -> bool:
        """Whether this, and nothing older, is what was seen last: what is expected from now on holds of it."""
        assert self._failure is None, f"{self._case.namespace}: nobody watches: {self._failure!r}"
        seen = dict(self._pods)
        versions = {uid: pod["metadata"]["resourceVersion"] for uid, pod in seen.items()}
        return versions == {pod["metadata"]["uid"]: pod["metadata"]["resourceVersion"] for pod in pods}

    def check(self) -> None:
        assert self._failure is None, f"{self._case.namespace}: nobody watched: {self._failure!r}"
        broken = list(self.broken)
        for call in self._case.proxy.writes():
            if call.method != "DELETE":
                continue
            preconditions = (call.body or {}).get("preconditions", {})
            if "uid" not in preconditions or ("/pods/" in call.path and "resourceVersion" not in preconditions):
                broken.append(f"delete without preconditions: {call}")
        assert not broken, f"{self._case.namespace}: {broken}"


def fetched(url: str) -> str:
    """Raises: OSError: nobody listens there yet, or the answer is none."""
    with urllib.request.urlopen(url, timeout=GUARD_SECONDS) as response:
        return str(response.read().decode())


def owners(item: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = item["metadata"].get("ownerReferences", [])
    return found


def condition(item: dict[str, Any], kind: str) -> str | None:
    for entry in item.get("status", {}).get("conditions", []):
        if entry["type"] == kind:
            return str(entry["status"])
    return None


_VOLATILE = frozenset(
    [
        "uid",
        "resourceVersion",
        "generation",
        "observedGeneration",
        "managedFields",
        "namespace",
        "nodeName",
        "creationTimestamp",
        "deletionTimestamp",
        "lastTransitionTime",
        "timings",  # a worker says them, and may be gone before a status can be written
        "startTime",
        "startedAt",
        "completionTime",
        "lastUsedTime",
        "generationTime",
        "provingSince",
        "unusedSince",
        "clusterIP",
        "clusterIPs",
        "podIP",
        "podIPs",
        "counted",
        "restores",  # of a worker that went before it was counted: never
        "timings",
        "message",
        "controller-uid",
        "batch.kubernetes.io/controller-uid",
    ]
)


def scrub(value: Any, namespace: str) -> Any:
    """Without times, uids, addresses and the namespace's name."""
    if isinstance(value, dict):
        return {key: scrub(inner, namespace) for key, inner in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [scrub(inner, namespace) for inner in value]
    return re.sub(rf'"{re.escape(namespace)}(?=["/])', '"NAMESPACE', value) if isinstance(value, str) else value


def kubeconfig(url: str, token: str) -> dict[str, Any]:
    """What `KUBECONFIG` points to."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "case",
        "clusters": [{"name": "case", "cluster": {"server": url}}],
        "users": [{"name": "case", "user": {"token": token}}],
        "contexts": [{"name": "case", "context": {"cluster": "case", "user": "case"}}],
    }


def difference(one: object, other: object, path: str = "") -> str:
    """The first place where two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                return difference(one.get(key), other.get(key), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right:
                return difference(left, right, f"{path}[{place}]")
    return f"{path}: {one!r} without faults, {other!r} now"
