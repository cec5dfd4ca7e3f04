"""One pool, looked at and judged: what scenarios that follow a pool for long have in common."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from common.progress import note, say

from scenarios import manifests
from scenarios.kube import Kube, Object, condition, wait
from scenarios.report import Report
from scenarios.watch import Watch, is_ready

POOL = manifests.POOL


class Onlooker:
    """Nothing is asserted by exceptions except what never came; what is wrong is a line of the report.

    Args:
        ask: gets one answer from the worker of a pod.
    """

    def __init__(self, kube: Kube, watch: Watch, ask: Callable[[str], str]) -> None:
        self.kube, self.watch, self.ask = kube, watch, ask
        self.report = Report()
        self.answer = ""

    def check(self, text: str, held: bool) -> None:
        self.report.check(text, held)
        say(f"  {'PASS' if held else 'FAIL'}  {text}")

    # -- what is checked more than once ----------------------------------------------------------------------------

    def _serve(self, count: int) -> None:
        names = self._names()
        answers = [self.ask(name) for name in names]
        self.check(
            f"{len(names)} of {count} workers answer, and answer the same",
            len(names) == count and set(answers) == {self.answer},
        )

    def _ready(self, message: str) -> None:
        wait(f"Ready: {message}", lambda: (condition(self._pool(), "Ready") or {}).get("message") == message, every=1.0)
        self.check(f"Ready=True: {message}", (condition(self._pool(), "Ready") or {}).get("status") == "True")

    def _degraded(self, reason: str, text: str) -> None:
        """Wait for it."""

        def told() -> bool:
            found = condition(self._pool(), "Degraded") or {}
            return found.get("status") == "True" and found.get("reason") == reason and text in found["message"]

        wait(f"Degraded=True {reason}, with {text}", told, every=1.0)
        self.check(f"Degraded=True {reason}, with {text}", told())

    def _told(self, kind: str, status: str, reason: str) -> str:
        """The message of a condition that is to be so by now."""
        found = condition(self._pool(), kind) or {}
        seen = (found.get("status"), found.get("reason"))
        self.check(f"{kind}={seen[0]} {seen[1]}", seen == (status, reason))
        return str(found.get("message", ""))

    def _event(self, reason: str, sort: str = "Warning") -> None:
        def posted() -> list[Object]:
            events = self.kube.list("events")
            return [e for e in events if e["reason"] == reason and e["involvedObject"]["kind"] == "VLLMWorkerPool"]

        (event, *_) = wait(f"an Event {reason}", posted, every=1.0)
        self.check(f"an Event of type {event['type']} {reason}: {event['message'][:90]}...", event["type"] == sort)

    # -- looking ---------------------------------------------------------------------------------------------------

    def _pool(self) -> Object:
        found = self.kube.get("vwp", POOL)
        assert found is not None, "the pool is gone"
        return found

    def _status(self, field: str) -> Any:
        return self._pool()["status"][field]

    def _change(self, **spec: Any) -> None:
        self.kube.run("patch", "vwp", POOL, "--type=merge", f"--patch={json.dumps({'spec': spec})}")

    def _until(self, what: str, probe: Callable[[], object]) -> None:
        note(f"waiting for {what}")
        self.watch.until(what, lambda: bool(probe()))

    def _settled(self, count: int) -> None:
        """All pods are as they should be, by their own word and by the pool's."""
        self._until(f"{count} workers", lambda: len(self.watch.ready()) == count == len(self.watch.pods))
        wait("the pool to be settled", lambda: self._is_settled(count), every=1.0)

    def _is_settled(self, count: int) -> bool:
        found = self._pool()
        status = found.get("status", {})
        counted = status.get("restoredReplicas", 0) + status.get("coldStartedReplicas", 0)
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and (condition(found, "Progressing") or {}).get("reason") == "Settled"
            and (condition(found, "CheckpointReady") or {}).get("status") == "True"
            and counted == status.get("readyReplicas") == count
        )

    def _serving(self, count: int, revision: str = "", without: str = "") -> bool:
        """Whether so many pods serve, all of that revision if one is given, and `without` (a uid) is gone."""
        ready = self.watch.ready()
        revisions = {pod["metadata"]["labels"]["vernal.dev/revision"] for pod in ready}
        gone = without not in {pod["metadata"]["uid"] for pod in self.watch.pods.values()}
        return len(ready) == count and gone and revisions <= ({revision} if revision else revisions)

    def _names(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.watch.ready())

    def _uids(self) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self.watch.staying()}

    def _life(self) -> set[tuple[str, tuple[str, ...]]]:
        """Pods and their containers, by ids that no other has."""
        return {
            (
                pod["metadata"]["uid"],
                tuple(sorted(c.get("containerID", "") for c in pod["status"].get("containerStatuses", []))),
            )
            for pod in self.watch.pods.values()
            if is_ready(pod)
        }


def worker(pod: Object) -> Object:
    found: Object = next(c for c in pod["spec"]["containers"] if c["name"] == "worker")
    return found


def epoch(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
