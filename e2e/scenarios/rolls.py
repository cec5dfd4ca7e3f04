"""Rolls that cannot work, writes that are refused, and others that write beside: one pool on a real Kubernetes, whose
every pod gets a sidecar and a LimitRange's defaults besides.

Runs on any cluster on which Vernal is installed and that serves MutatingAdmissionPolicy (Kubernetes 1.36); what it
needs besides is one shared (RWX) claim.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.progress import note, say, show, step

from scenarios import manifests
from scenarios.kube import Kube, Object, condition, wait
from scenarios.leader import QUIET_SECONDS, Operator
from scenarios.onlooker import POOL, Onlooker, epoch, worker
from scenarios.report import Report
from scenarios.watch import Watch

SELECTOR = f"vernal.dev/pool={POOL}"
BROKEN = "registry.invalid/vernal/worker:broken"
"""An image that cannot be pulled: no registry can have that name (RFC 2606)."""
LONG = 86400
QUOTA = "few-pods"
ROUNDS = 5
STABLE_SECONDS = 300.0
FIRST_PAUSE = 1.0  # of the operator, before it tries a refused write again; each pause is twice the one before


class Rolls(Onlooker):
    """The scenario. `run` returns the report.

    Args:
        stable: for how long all pods must stay the same in the end. Seconds.
    """

    def __init__(
        self,
        kube: Kube,
        image: str,
        watch: Watch,
        operator: Operator,
        ask: Callable[[str], str],
        stable: float = STABLE_SECONDS,
    ) -> None:
        super().__init__(kube, watch, ask)
        self.image, self.operator, self.stable = image, operator, stable

    def run(self) -> Report:
        with step("1/6  two replicas; each of their pods gets a sidecar and a LimitRange's defaults (2 min)"):
            self.two_serve()
        with step("2/6  an image that cannot be pulled, an old pod lost, a change of scale, the way back (3 min)"):
            self.a_roll_that_cannot_work()
        with step("3/6  a new checkpoint is asked for (1 min)"):
            self.a_new_checkpoint()
        with step("4/6  a quota of 3 pods, and 4 replicas (1 min)"):
            self.a_quota()
        with step("5/6  others write conditions into the status, again and again (30 s)"):
            self.foreign_conditions()
        with step(f"6/6  nothing changes any more ({self.stable / 60:.0f} min)"):
            self.pods_stay()
        return self.report

    # -- steps ---------------------------------------------------------------------------------------------------

    def two_serve(self) -> None:
        self.kube.apply(manifests.pool(self.image, 2))
        self._settled(2)
        self.answer = self.ask(self._names()[0])
        show(self.kube.run("get", "vwp"))
        containers = [c["name"] for pod in self.watch.ready() for c in pod["spec"]["containers"]]
        self.check(f"the sidecar is in front of each worker ({containers})", containers == ["mesh", "worker"] * 2)
        requests = [worker(pod)["resources"].get("requests", {}) for pod in self.watch.ready()]
        self.check(
            f"each worker has the LimitRange's requests ({requests[0]})", all(r == manifests.REQUESTS for r in requests)
        )
        self._serve(2)

    def a_roll_that_cannot_work(self) -> None:
        old = self._status("currentRevision")
        before = self._uids()
        self._change(image=BROKEN, rollout={"progressDeadlineSeconds": LONG})
        self._until("a pod whose image cannot be pulled", self._broken)
        self._degraded("ImagePullFailed", "ImagePull")
        self.check("the two old pods are still there, and the new one is a third", before <= self._uids())

        lost = self.watch.ready()[0]["metadata"]
        say(f"  pod {lost['name']} is lost")
        self.kube.delete("pod", lost["name"], wait=False)
        self._until("2 pods of the old revision to serve", lambda: self._serving(2, old, without=lost["uid"]))
        self._ready("2 of 2 replicas are ready")
        self._serve(2)

        before = self._uids()
        self.kube.run("scale", f"vwp/{POOL}", "--replicas=4")
        self._until("4 pods of the old revision to serve", lambda: self._serving(4, old))
        self._ready("4 of 4 replicas are ready")
        self.check("none that served had to go for it", before <= self._uids())
        self._serve(4)
        self.check("the broken revision is still tried, by one pod", len(self._broken()) == 1)

        self._comes_back(old)
        self._recovers(old)

    def _broken(self) -> list[Object]:
        """Pods that wait for the broken image."""
        return [pod for pod in self.watch.staying() if worker(pod)["image"] == BROKEN and _waits(pod)]

    def _comes_back(self, old: str) -> None:
        serving = {pod["metadata"]["uid"] for pod in self.watch.ready()}
        since = epoch(self._status("provingSince"))
        seconds = math.ceil(time.time() - since) + 15
        say(f"  spec.rollout.progressDeadlineSeconds becomes {seconds}, of which 15 are left")
        self._change(rollout={"progressDeadlineSeconds": seconds})
        wait("the pool to go back by itself", lambda: "rejected" in self._pool()["status"], every=1.0)
        self._until("the broken pod to be gone", lambda: len(self.watch.pods) == 4)
        rejected = self._status("rejected")
        took = epoch(rejected["time"]) - since
        self.check(
            f"the pool went back by itself {took:.0f} s after the roll began, not before the {seconds} s were up",
            took >= seconds,
        )
        told = self._told("Degraded", "True", "ProgressDeadlineExceeded")
        self.check(f"Degraded says why: {told}", "ImagePull" in told and "revert it" in told)
        self._told("Progressing", "False", "ProgressDeadlineExceeded")
        self._event("ProgressDeadlineExceeded")
        now = {pod["metadata"]["uid"] for pod in self.watch.ready()}
        self.check("the four pods that served are the ones that serve now", now == serving)
        self.check("they are of the revision that was there before", self._serving(4, old))
        self._serve(4)
        show(self.kube.run("get", "vwp"))

    def _recovers(self, old: str) -> None:
        """The image is the old one, and the revision a third: its pods may thaw what is there."""
        template = {"metadata": {"annotations": {"example.com/put-right": "yes"}}}
        deadline = {"progressDeadlineSeconds": None}
        self._change(image=self.image, replicas=2, podTemplate=template, rollout=deadline)
        self._settled(2)
        now = self._pool()["status"]
        fixed = now["currentRevision"]
        self.check(
            f"a spec that is put right rolls to the end ({old}, then {fixed}), and the rejection is forgotten",
            fixed not in (old, None) and fixed == now["updateRevision"] and "rejected" not in now,
        )
        self._serve(2)

    def a_new_checkpoint(self) -> None:
        before, was = self._uids(), self._pool()["status"]
        name, old = was["checkpoint"]["name"], was["checkpoint"]["generation"]
        self.kube.run("annotate", "vwp", POOL, "vernal.dev/renew-checkpoint=1")
        wait("the renewal to end", lambda: self._renewal() not in (None, "Pending"), every=1.0)
        self._settled(2)
        now = self._pool()["status"]
        new = wait("its generation", lambda: self._generation(name, other=old), every=1.0)
        told = f"{now['renewal']['outcome']}: {now['renewal']['message']}"
        self.check(f"{name} had generation {old} and has {new} ({told})", now["renewal"]["outcome"] == "Renewed")
        self.check("the revision is what it was", now["currentRevision"] == was["currentRevision"])
        stay = len(before & self._uids())
        self.check(f"one pod was too many then, and went; of the two of before {stay} are there", stay >= 1)
        self._event("CheckpointRenewed", "Normal")
        self._serve(2)

    def _renewal(self) -> str | None:
        found: str | None = self._pool()["status"].get("renewal", {}).get("outcome")
        return found

    def _generation(self, checkpoint: str, other: str) -> str | None:
        """The current one of a checkpoint, once it is not `other`."""
        found: str | None = (self.kube.get("vck", checkpoint) or {}).get("status", {}).get("generation")
        return found if found != other else None

    def a_quota(self) -> None:
        self._until("no pod to be on its way out", lambda: len(self.watch.pods) == 2)
        self.kube.apply(manifests.quota(QUOTA, 3))
        wait("the quota to be counted", lambda: self._used() == "2", every=1.0)
        tries = self.operator.count("api_requests", verb="create", resource="pods", code="403")
        began = time.monotonic()
        self.kube.run("scale", f"vwp/{POOL}", "--replicas=4")
        self._until("a third pod", lambda: self._serving(3))
        sentence = f"exceeded quota: {QUOTA}, requested: pods=1, used: pods=3, limited: pods=3"
        self._degraded("QuotaExceeded", sentence)
        told = self._told("Degraded", "True", "QuotaExceeded")
        self.check(f"Degraded has the API server's sentence: {told}", sentence in told)
        self._told("Progressing", "False", "QuotaExceeded")
        self._event("QuotaExceeded")

        def tried() -> float:
            return self.operator.count("api_requests", verb="create", resource="pods", code="403") - tries

        wait("the operator to try four times", lambda: tried() >= 4, every=1.0)
        number = tried()
        elapsed = time.monotonic() - began
        # Pauses of 1, 2, 4 ... seconds at least fit into the time in which all tries were made.
        most = 1 + math.log2(1 + elapsed / FIRST_PAUSE)
        self.check(f"it backs off: {number:.0f} tries in {elapsed:.0f} s, at most {most:.0f}", number <= most)
        self._serve(3)
        self.kube.delete("resourcequota", QUOTA)
        self._settled(4)
        self._told("Degraded", "False", "AsExpected")
        self.check("with the quota gone the fourth pod came by itself", len(self._names()) == 4)

    def _used(self) -> str:
        found = self.kube.get("resourcequota", QUOTA) or {}
        return str(found.get("status", {}).get("used", {}).get("pods"))

    def foreign_conditions(self) -> None:
        checkpoint = self._status("checkpoint")["name"]
        wait("the checkpoint to have counted 4 starts", lambda: self._counted(checkpoint) == 4, every=1.0)
        before = self.operator.rested()
        for number in range(ROUNDS):
            for kind, name in (("vwp", POOL), ("vck", checkpoint)):
                self._audit(kind, name, number)
        say(f"  {ROUNDS} times a condition of a stranger in the pool and in {checkpoint}; then a change of the spec")
        self._change(rollout={"revisionHistoryLimit": 9})  # rolls nothing; its answer comes behind all the rest
        seen = wait("the operator to have seen all of it", self._observed, every=1.0)
        self._quiet()
        written = self.operator.written(before)
        self.check(
            f"{ROUNDS * 2} foreign writes and one change of the spec cost one write, of status.observedGeneration: "
            f"{written}",
            written == {("apply", "vllmworkerpools"): 1.0},
        )
        now = self._pool()
        same = now["metadata"]["resourceVersion"] == seen["metadata"]["resourceVersion"]
        self.check(f"in {QUIET_SECONDS:.0f} s after that the pool is not written at all", same)
        kept = condition(now, "example.com/Audited")
        self.check("the stranger's condition is kept", bool(kept) and kept["message"] == str(ROUNDS - 1))  # type: ignore[index]

    def _audit(self, kind: str, name: str, number: int) -> None:
        """Merge patches replace lists, so a stranger writes the whole one, with others' entries as they are."""
        found = self.kube.get(kind, name)
        assert found is not None
        others = [c for c in found["status"]["conditions"] if c["type"] != "example.com/Audited"]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        mine = {"type": "example.com/Audited", "status": "True", "reason": "Seen", "message": str(number)}
        body = {"status": {"conditions": [*others, mine | {"lastTransitionTime": stamp}]}}
        self.kube.run(
            "patch", kind, name, "--subresource=status", "--type=merge", "--field-manager=stranger",
            f"--patch={json.dumps(body)}",
        )  # fmt: skip

    def _counted(self, checkpoint: str) -> int:
        found = self.kube.get("vck", checkpoint) or {}
        return len(found.get("status", {}).get("counted", []))

    def _observed(self) -> Object | None:
        found = self._pool()
        return found if found["status"]["observedGeneration"] == found["metadata"]["generation"] else None

    def _quiet(self) -> None:
        note(f"{QUIET_SECONDS:.0f} s in which nothing is to be written")
        time.sleep(QUIET_SECONDS)

    def pods_stay(self) -> None:
        before, writes = self._life(), self.operator.rested()
        began, number = time.monotonic(), ROUNDS
        while (left := self.stable - (time.monotonic() - began)) > 0:
            note(f"{left:.0f} s left; the pods of before: {len(self._uids() & {uid for uid, _ in before})} of 4")
            self._audit("vwp", POOL, number)  # so that there is something to look at
            number += 1
            time.sleep(min(left, 30.0))
        written = self.operator.written(writes)
        self.check(f"after {self.stable:.0f} s the pods and their containers are the same four", self._life() == before)
        self.check(f"and the operator has written nothing: {written or 'no call'}", not written)
        self._serve(4)
        errors = self.operator.errors()
        self.check(f"the operator has logged no error: {errors[:1] or 'none'}", not errors)


@contextmanager
def meddlers(kube: Kube, image: str) -> Iterator[None]:
    """A LimitRange and a sidecar injector for as long as the block runs."""
    kube.apply(manifests.limit_range(), *manifests.injector(kube.namespace, image))
    try:
        probe = json.dumps(manifests.probe_pod(image))

        def injected() -> bool:
            text = kube.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=probe)
            return [c["name"] for c in json.loads(text)["spec"]["containers"]] == ["mesh", "worker"]

        wait("the sidecar injector to be at work", injected, every=1.0)
        yield
    finally:
        for manifest in manifests.injector(kube.namespace, image):
            kube.delete(manifest["kind"], manifest["metadata"]["name"])


def _waits(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    reasons = {s.get("state", {}).get("waiting", {}).get("reason") for s in statuses if s["name"] == "worker"}
    return bool(reasons & {"ErrImagePull", "ImagePullBackOff"})
