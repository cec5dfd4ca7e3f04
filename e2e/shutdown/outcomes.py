"""Every way in which Kubernetes ends a worker's pod or container, on a cluster, with one pool: what becomes of requests
in flight and of the pool."""

import contextlib
import json
import threading
import time
from collections.abc import Iterable
from typing import Any

from common.progress import say
from patience import GUARD_SECONDS
from scenarios import manifests, setup
from scenarios.client import Stream, hold, release
from scenarios.kube import Kube, KubeError, is_true, wait
from scenarios.report import Report
from scenarios.watch import Gone, Watch

POOL = manifests.POOL
SELECTOR = f"vernal.dev/pool={POOL}"
PROPAGATION, DRAIN, PRE_STOP = 2, 1800, 3  # seconds: nothing ends because its time is over
GRACE = PROPAGATION + DRAIN + PRE_STOP + 30
KILL_ENGINE = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").iterdir():
    if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"VLLM::EngineCore"):
        os.kill(int(entry.name), signal.SIGKILL)
"""


class Outcomes:
    """One run; `run` returns what was seen."""

    def __init__(self, kube: Kube, base: str, image: str, watch: Watch) -> None:
        self.kube, self.base, self.image, self.watch = kube, base, image, watch
        self.report = Report()

    def run(self) -> Report:
        self.too_short_a_grace_period_is_refused()
        self.kube.apply(pool(self.image, 1))
        say("the first worker starts cold and makes the checkpoint (about a minute)")
        self._ready(1)
        wait("the checkpoint", lambda: is_true(self.kube.get("vwp", POOL), "CheckpointReady") or None)
        self.kube.run("scale", f"vwp/{POOL}", "--replicas=2")
        self._ready(2)
        self.eviction()
        self.node_drain()
        self.engine_death_restarts_the_container()
        self.force_delete()
        self.pool_deletion()
        return self.report

    def too_short_a_grace_period_is_refused(self) -> None:
        short = pool(self.image, 1)
        short["spec"]["terminationGracePeriodSeconds"] = PROPAGATION + DRAIN + 9
        try:
            self.kube.apply(short)
            said = "accepted"
        except KubeError as error:
            said = str(error)
        self.report.check(
            "a grace period shorter than the pool's parts is refused by the API server, which names the fields",
            "must fit into spec.terminationGracePeriodSeconds" in said,
        )

    def eviction(self) -> None:
        """With preStop: all pods of this pool have one."""
        say("eviction")
        one, other = (pod["metadata"]["name"] for pod in self.watch.ready())
        stream = self._stream(one)
        self._evict(one)
        try:
            self._evict(other)
            second = "allowed"
        except KubeError as error:
            second = "refused" if "disruption budget" in str(error) else str(error)
        release(self.kube, one)
        gone = self._gone(one)
        stream.join(GUARD_SECONDS)
        self.report.check(
            f"an evicted worker, with a preStop hook of {PRE_STOP} s, finishes its stream and is gone after "
            f"{gone.seconds:.1f} s, exit code {gone.exit_code}: {_said(stream)}",
            stream.whole and gone.seconds >= PRE_STOP and gone.exit_code in (0, None),  # None: nobody saw it
        )
        self.report.check(f"meanwhile the budget has a second eviction {second}", second == "refused")
        self._ready(2)

    def node_drain(self) -> None:
        say("kubectl drain")
        pods = self.watch.ready()
        node = pods[0]["spec"]["nodeName"]
        streams = {name: self._stream(name) for name in (pod["metadata"]["name"] for pod in pods)}
        drain = ("drain", node, f"--pod-selector={SELECTOR}", "--ignore-daemonsets", "--delete-emptydir-data")
        # One at a time, as the budget says, and the second only when its successor is ready, which needs a node.
        errors: list[str] = []

        def run() -> None:
            try:
                self.kube.run(*drain)
            except KubeError as error:
                errors.append(str(error))

        draining = threading.Thread(target=run)
        draining.start()
        try:
            self.watch.until("a pod to be evicted", lambda: bool(self._leaving(streams)))
            self.watch.until("a successor", lambda: len(self.watch.staying()) == 2)
            alone = len(self._leaving(streams)) == 1
        finally:
            self.kube.run("uncordon", node)
        self.watch.until("the other pod to be evicted", lambda: len(self._leaving(streams)) == 2)
        for name, stream in streams.items():
            release(self.kube, name)
            stream.join(GUARD_SECONDS)
        draining.join(GUARD_SECONDS)
        self.report.check(
            f"a node drain takes the workers one after the other, as the budget says; their streams: "
            f"{', '.join(map(_said, streams.values()))}{'; ' + errors[0] if errors else ''}",
            alone and all(stream.whole for stream in streams.values()) and not errors,
        )
        self._ready(2)

    def engine_death_restarts_the_container(self) -> None:
        say("the engine dies: the kubelet restarts the container")
        name = self.watch.ready()[0]["metadata"]["name"]
        began = time.monotonic()
        with contextlib.suppress(KubeError):  # the container may end before the command in it has
            self.kube.run("exec", name, "-c", "worker", "--", "/opt/vernal/venv/bin/python", "-c", KILL_ENGINE)

        def again() -> bool:
            pod = self.watch.pods.get(name, {})
            status = (pod.get("status", {}).get("containerStatuses") or [{}])[0]
            return status.get("restartCount", 0) == 1 and any(p["metadata"]["name"] == name for p in self.watch.ready())

        self.watch.until("the container to be back", again)
        status = self.watch.pods[name]["status"]["containerStatuses"][0]
        last = status["lastState"]["terminated"]
        state = json.loads(
            self.kube.run("get", "--raw", f"/api/v1/namespaces/{self.kube.namespace}/pods/{name}:9100/proxy/state")
        )
        seconds = time.monotonic() - began
        self.report.check(
            f"an engine that dies ends the container with {last['exitCode']}, and the next one in the same pod is "
            f"{state['startMode']} and ready after {seconds:.1f} s",
            last["exitCode"] == 12 and state["startMode"] == "Restored" and "EngineDied" in last.get("message", ""),
        )

    def force_delete(self) -> None:
        say("kubectl delete --grace-period=0 --force")
        metadata = self.watch.ready()[0]["metadata"]
        name, uid = metadata["name"], metadata["uid"]
        stream = self._stream(name)
        self.kube.run("delete", "pod", name, "--grace-period=0", "--force", "--wait=false")
        self.watch.until("the pod to be gone", lambda: any(gone.uid == uid for gone in self.watch.gone))
        stream.join(GUARD_SECONDS)
        self._ready(2)
        now = {pod["metadata"]["uid"] for pod in self.watch.ready()}
        self.report.check(
            f"a force deletion cuts what is in flight ({_said(stream)}), and the pool makes a successor",
            not stream.whole and uid not in now,
        )

    def pool_deletion(self) -> None:
        say("the pool is deleted")
        streams = {name: self._stream(name) for name in (pod["metadata"]["name"] for pod in self.watch.ready())}
        self.kube.delete("vwp", POOL, wait=False)
        self.watch.until("all pods to be terminating", lambda: len(self._leaving(streams)) == len(streams))
        for name, stream in streams.items():
            release(self.kube, name)
            stream.join(GUARD_SECONDS)
        self.watch.until("the pods to be gone", lambda: not self.watch.pods)
        self.report.check(
            f"deleting a pool drains its workers: {', '.join(map(_said, streams.values()))}",
            all(stream.whole for stream in streams.values()),
        )

    # -- looking ---------------------------------------------------------------------------------------------------

    def _ready(self, count: int) -> None:
        self.watch.until(f"{count} workers", lambda: self._only_ready(count))

    def _only_ready(self, count: int) -> bool:
        return len(self.watch.ready()) == count == len(self.watch.pods)

    def _leaving(self, pods: Iterable[str]) -> list[str]:
        staying = {pod["metadata"]["name"] for pod in self.watch.staying()}
        return [pod for pod in pods if pod not in staying]

    def _stream(self, pod: str) -> Stream:
        """One that is held until `release`."""
        hold(self.kube, pod)
        stream = Stream(self.kube.pod_url(self.base, pod, 8000), manifests.MODEL_NAME)
        stream.start()
        stream.first.wait(GUARD_SECONDS)
        return stream

    def _evict(self, pod: str) -> None:
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.kube.namespace},
        }
        path = f"/api/v1/namespaces/{self.kube.namespace}/pods/{pod}/eviction"
        self.kube.run("create", "--raw", path, "-f", "-", stdin=json.dumps(body))

    def _gone(self, pod: str) -> Gone:
        self.watch.until(f"{pod} to be gone", lambda: any(gone.name == pod for gone in self.watch.gone))
        return next(gone for gone in self.watch.gone if gone.name == pod)


def _said(stream: Stream) -> str:
    return "whole" if stream.whole else (stream.error or f"cut after {stream.chunks} pieces")[:80]


def pool(image: str, replicas: int) -> dict[str, Any]:
    manifest = manifests.pool(image, replicas)
    spec = manifest["spec"]
    spec["drain"] = {"propagationSeconds": PROPAGATION, "timeoutSeconds": DRAIN}
    spec["terminationGracePeriodSeconds"] = GRACE
    hook = {"preStop": {"sleep": {"seconds": PRE_STOP}}}
    spec["podTemplate"] = {"spec": {"containers": [{"name": "worker", "lifecycle": hook}]}}
    return manifest


def run() -> Report:
    images = setup.cluster_with_images()
    setup.install(images)
    with setup.namespace("vernal-outcomes") as kube:
        setup.prepare_model(kube, images)
        with kube.proxy() as base, Watch(kube, SELECTOR) as watch:
            return Outcomes(kube, base, images.worker, watch).run()
