"""A pool over the two nodes of the embedded cluster, of which the second has the checkpoint before a pod is there.

By a Job of the operator's (`nodeCache.prefetch` of the chart), which is looked at: what it may do, that it goes, and
that a node whose cache is too small for it is asked once.
"""

from collections.abc import Callable
from copy import deepcopy

from common.progress import show

from scenarios import manifests
from scenarios.kube import Kube, Object, wait
from scenarios.leader import Operator
from scenarios.report import Report
from scenarios.two_nodes import FIRST, SECOND, TwoNodes, take_pods
from scenarios.watch import Gone, Watch

FETCHES = "vernal.dev/component=prefetch"
"""Label of the Jobs and of their pods."""
SIZE, TOO_SMALL = "4Gi", "64Mi"
"""Of a namespace's cache on a node; the checkpoint has more than 1 GB."""
INSIDE = "inside-of-a-fetch"

# Runs in a container like the Job's: what it has, with the store as the one argument.
LOOK = """
grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb):' /proc/self/status
test -e /var/run/secrets/kubernetes.io && echo a token of a service account
touch "$0/scratch" 2>&1 && echo the store can be written
true
"""


class Prefetched(TwoNodes):
    """The scenario. `run` returns the report.

    Args:
        watch: of the pods that have the label `FETCHES`.
        chart: gives the chart's `nodeCache.size` that value, and returns the operator.
    """

    steps = 5

    def __init__(self, kube: Kube, base: str, image: str, watch: Watch, chart: Callable[[str], Operator]) -> None:
        super().__init__(kube, base, image)
        self._watch, self._chart = watch, chart
        self._seed = 0  # of the engine: with another one, the checkpoint is another one

    def run(self) -> Report:
        operator = self._chart(SIZE)
        before = operator.count("prefetches")
        with self.step(1, f"one replica on {FIRST}: starts cold, freezes, fills its node's cache (1 min)"):
            self.freezes_on_the_first()
        with self.step(2, f"{SECOND} may have pods: a Job brings the checkpoint there (30 s)"):
            self.second_fetches()
        with self.step(3, f"one more replica, on {SECOND}: thaws from its node's cache (1 min)"):
            self.first_pod_hits()
            self._silent(operator, fetches=1)
        counted = operator.count("prefetches", result="Fetched"), operator.count("prefetches") - before
        self.report.check(f"vernal_operator_prefetches_total has one more, Fetched: {counted}", counted[1] == 1)
        with self.step(4, "another checkpoint, for which the nodes' caches are too small (2 min)"):
            self.delete_cleans_up()
            self.too_small()
        with self.step(5, "the pool is deleted (10 s)"):
            self.delete_cleans_up()
        self.report.check("every worker gave the first one's answer", all(row.same_answer for row in self.report.rows))
        return self.report

    # -- steps -------------------------------------------------------------------------------------------------------

    def second_fetches(self) -> None:
        early = [*self._watch.pods, *(gone.name for gone in self._watch.gone)]
        self.report.check(f"no Job has fetched to {FIRST}, whose worker filled the cache: {early or 'none'}", not early)
        take_pods(self.kube, FIRST, SECOND)
        fetch = self._fetch(1)
        self.report.check(f"a Job fetched it to {SECOND}: exit code {fetch.exit_code}", fetch.exit_code == 0)
        self.report.check(f"before a pod of the pool was on {SECOND}", not self._on(SECOND))
        self._may_no_more_than_it_needs(fetch.last)
        self._known({FIRST: "Filled", SECOND: "Fetched"}, warm="2")

    def first_pod_hits(self) -> None:
        take_pods(self.kube, SECOND)
        self.kube.run("scale", f"vwp/{manifests.POOL}", "--replicas=2")
        worker = self._newest(FIRST, SECOND)
        self._thawed(worker, SECOND, "Hit")
        fill = self._cache(worker).get("fill")
        self.report.check(f"and had nothing to put there ({fill})", fill is None)
        self.report.check("kubectl get vck: WARM 2 as before", self._warm() == "2")

    def too_small(self) -> None:
        operator = self._chart(TOO_SMALL)
        self._seed = 1
        self.freezes_on_the_first("Full")
        take_pods(self.kube, FIRST, SECOND)
        fetch = self._fetch(2)
        self.report.check(f"the Job on {SECOND} failed: exit code {fetch.exit_code}", fetch.exit_code not in (0, None))
        self._known({FIRST: "Full", SECOND: "Full"}, warm="0")
        self._told(f"node {SECOND} ")
        self._silent(operator, fetches=2)

    # -- looking -----------------------------------------------------------------------------------------------------

    def pool(self) -> Object:
        made = deepcopy(super().pool())
        made["spec"]["engineArgs"]["seed"] = self._seed
        return made

    def _fetch(self, count: int) -> Gone:
        """The pod of the last Job, when so many have come and gone."""
        self._watch.until(f"{count} pods that fetch, to be over and gone", lambda: len(self._watch.gone) >= count)
        wait("the Job to be gone", lambda: not self.kube.list("jobs", FETCHES))
        last = self._watch.gone[-1]
        node = last.last["spec"].get("nodeName")
        self.report.check(f"it ran on {node}, and is gone with its Job", node == SECOND)
        return last

    def _may_no_more_than_it_needs(self, pod: Object) -> None:
        spec = pod["spec"]
        (container,) = spec["containers"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        (claim,) = (v["name"] for v in spec["volumes"] if "persistentVolumeClaim" in v)
        kinds = sorted(key for volume in spec["volumes"] for key in volume.keys() - {"name"})
        self.report.check(
            f"its pod has no volume but the claim and the cache, so no token of a service account: {kinds}",
            kinds == ["hostPath", "persistentVolumeClaim"] and spec.get("automountServiceAccountToken") is False,
        )
        self.report.check("and mounts the claim read-only", mounts[claim].get("readOnly") is True)
        held = container.get("securityContext", {})
        self.report.check(
            f"no capability is left to it, and none can be won: {held.get('capabilities')}",
            held.get("capabilities") == {"drop": ["ALL"]}
            and held.get("allowPrivilegeEscalation") is False
            and not held.get("privileged"),
        )
        seen = self._inside(spec, mounts[claim]["mountPath"])
        caps = [line.split()[1] for line in seen if line.startswith("Cap")]
        rest = [line for line in seen if not line.startswith("Cap")]
        self.report.check(
            f"a container with the same spec sees no capability, no token and a store that it cannot write: {rest}",
            len(caps) == 5
            and not any(int(mask, 16) for mask in caps)
            and len(rest) == 1
            and "Read-only file system" in rest[0],
        )

    def _inside(self, spec: Object, store: str) -> list[str]:
        """What a container of the same spec sees of itself, in lines: the Job's own may be over before one can look."""
        same = deepcopy(spec)
        same.pop("nodeName")
        same["containers"][0] |= {"command": ["sh", "-c", LOOK, store], "args": []}
        self.kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": INSIDE}, "spec": same})

        def over() -> str | None:
            phase = str(((self.kube.get("pod", INSIDE) or {}).get("status") or {}).get("phase"))
            return phase if phase in ("Succeeded", "Failed") else None

        wait("a look from inside", over)
        seen = self.kube.run("logs", INSIDE).splitlines()
        self.kube.delete("pod", INSIDE)
        return seen

    def _known(self, nodes: dict[str, str], warm: str) -> None:
        """What the checkpoint's status says of its nodes, and `kubectl get vck`."""

        def told() -> dict[str, str] | None:
            status = (self.kube.get("vck", self._checkpoint()) or {}).get("status", {})
            found = {entry["name"]: entry["reason"] for entry in status.get("nodes") or ()}
            return found if found.keys() >= nodes.keys() else None

        seen = wait("a word about each node", told)
        self.report.check(f"status.nodes: {seen}", seen == nodes)
        self.report.check(f"kubectl get vck: WARM {self._warm()}", self._warm() == warm)
        show(self.kube.run("get", "vck"))

    def _checkpoint(self) -> str:
        return str((self.kube.get("vwp", manifests.POOL) or {})["status"]["checkpoint"]["name"])

    def _warm(self) -> str:
        """As a person sees it."""
        head, row = self.kube.run("get", "vck", self._checkpoint()).splitlines()
        return row[head.index("WARM") :].split("  ")[0].strip()

    def _told(self, text: str) -> None:
        def posted() -> list[Object]:
            about = self._checkpoint()
            return [
                event
                for event in self.kube.list("events")
                if event["reason"] == "PrefetchFailed" and event["involvedObject"]["name"] == about
            ]

        events = wait("an Event PrefetchFailed", posted)
        message = str(events[0]["message"])
        self.report.check(
            f"{len(events)} Event {events[0]['type']} PrefetchFailed: {message}",
            len(events) == 1 and text in message and "nodeCache.size" in message,
        )

    def _silent(self, operator: Operator, fetches: int) -> None:
        """The operator writes nothing more, and `fetches` Jobs there have been in all."""
        written = operator.quiet()
        self.report.check(f"then the operator writes nothing: {written or 'no call'}", not written)
        more = len(self._watch.gone) + len(self._watch.pods) - fetches
        self.report.check(f"and makes no other Job ({more})", more == 0)
        errors = operator.errors()
        self.report.check(f"the operator has logged no error: {errors[:1] or 'none'}", not errors)
