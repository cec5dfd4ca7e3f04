"""The life of a pool, end to end: freeze, thaw, scale, drain, and a corrupted checkpoint.

Runs on any cluster on which Vernal is installed; what it needs besides is one shared (RWX) claim, or a bucket
(`bucket_life`).
"""

import json
import pathlib
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from common import progress
from common.progress import note, show
from patience import GUARD_SECONDS

from scenarios import manifests
from scenarios.client import STREAM_TOKENS, FirstToken, Stream, greedy, hold, release
from scenarios.kube import Kube, Object, condition, is_true, wait
from scenarios.report import Report, Row

POOL_SELECTOR = f"vernal.dev/pool={manifests.POOL}"
ADMIN_PORT, SERVING_PORT = 9100, 8000

# Runs in a worker's container, which has the store mounted: one bit in the middle of the checkpoint's largest file.
FLIP_ONE_BIT = """
import pathlib, sys
files = [f for f in pathlib.Path("/var/lib/vernal/store").rglob("*") if f.is_file() and sys.argv[1] in f.parts]
victim = max(files, key=lambda f: f.stat().st_size)
with victim.open("r+b") as f:
    f.seek(victim.stat().st_size // 2)
    byte = f.read(1)[0]
    f.seek(-1, 1)
    f.write(bytes([byte ^ 1]))
print(victim.name)
"""


@dataclass
class Worker:
    """What is known of one pod while the scenario runs."""

    name: str
    created: float
    prober: FirstToken
    ready: float | None = None
    state: dict[str, Any] = field(default_factory=dict)


def _epoch(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


class Lifecycle:
    """The scenario. `run` returns the report; nothing is asserted by exceptions except what never came."""

    steps = 5

    def __init__(self, kube: Kube, base: str, image: str) -> None:
        self.kube, self.base, self.image = kube, base, image
        self.report = Report()
        self.workers: dict[str, Worker] = {}
        self.answer = ""

    def run(self) -> Report:
        with self.step(1, "one replica: starts vLLM the slow way, freezes itself, serves (1 min)"):
            first = self.first_worker_freezes()
        with self.step(2, "an HPA on /scale takes the pool to 3: the new pods thaw (10 s)"):
            thawed = self.autoscaler_adds_two()
        self.tell_speedup(first, thawed)
        with self.step(3, "a streamed answer on every pod, held half-way, while the pool goes back to 1 (30 s)"):
            self.scale_down_loses_nothing()
        with self.step(4, "one bit of the checkpoint is flipped: a new pod must notice and start cold (1 min)"):
            self.corruption_is_found()
        with self.step(5, "the pool is deleted: its pods, Service and budget go (10 s)"):
            self.delete_cleans_up()
        return self.report

    def step(self, number: int, text: str) -> AbstractContextManager[None]:
        return progress.step(f"{number}/{self.steps}  {text}")

    # -- what depends on where checkpoints are ---------------------------------------------------------------------

    def pool(self) -> Object:
        return manifests.pool(self.image, replicas=1)

    def flip_one_bit(self, survivor: Worker) -> str:
        """In the current checkpoint; where."""
        artifact = survivor.state.get("artifact") or {}
        return self.kube.run(
            "exec", survivor.name, "-c", "worker", "--", "/opt/vernal/venv/bin/python", "-c", FLIP_ONE_BIT,
            artifact["generation"],
        ).strip()  # fmt: skip

    # -- steps ---------------------------------------------------------------------------------------------------

    def first_worker_freezes(self) -> Worker:
        self.kube.apply(self.pool())
        worker = self._wait_ready(1)[0]
        pool = wait("the checkpoint", self._pool_with_checkpoint)
        self._row(worker)
        found = condition(pool, "CheckpointReady")
        self.report.check(
            f"the first worker started cold and its checkpoint is ready ({found and found.get('reason')})",
            worker.state.get("startMode") == "Cold",
        )
        self.answer = greedy(self._serving(worker), manifests.MODEL_NAME)
        show(self.kube.run("get", "vwp"))
        return worker

    def autoscaler_adds_two(self) -> list[Worker]:
        self.kube.apply(manifests.hpa(3, 3))
        before = set(self.workers)
        new = [w for w in self._wait_ready(3) if w.name not in before]
        for worker in new:
            self._row(worker)
        modes = [w.state.get("startMode") for w in new]
        self.report.check(f"the two pods that the HPA added thawed ({modes})", modes == ["Restored", "Restored"])
        show(self.kube.run("get", "vwp"))
        return new

    def tell_speedup(self, cold: Worker, thawed: list[Worker]) -> None:
        """How fast depends on the machine, and on what else it does: it is shown, and no check."""
        slowest = max((w.ready or 1e9) for w in thawed)
        ratio = (cold.ready or 0.0) / slowest
        self.report.note(
            f"thawed pods were ready {ratio:.1f} times sooner than the cold one ({cold.ready:.1f} s / {slowest:.1f} s)"
        )

    def _held(self) -> dict[str, Stream]:
        """An answer of each worker, by its name: begun, and held half-way until it is let go."""
        streams = {name: Stream(self._serving(worker), manifests.MODEL_NAME) for name, worker in self.workers.items()}
        for name, stream in streams.items():
            hold(self.kube, name)
            stream.start()
        for stream in streams.values():
            stream.first.wait(GUARD_SECONDS)
        return streams

    def scale_down_loses_nothing(self) -> None:
        streams = self._held()
        self.kube.apply(manifests.hpa(1, 1))
        leaving = wait("two pods to be terminating", lambda: self._terminating(2))
        for name in leaving:
            wait(f"{name} to drain", lambda name=name: self._state(name)["phase"] == "Draining" or None)  # type: ignore[misc]
        in_flight = [name for name in leaving if streams[name].is_alive()]
        self.report.check(f"answers were in flight on the pods that went ({len(in_flight)} of 2)", len(in_flight) == 2)
        for name in streams:
            release(self.kube, name)
        note("waiting for the streamed answers to end")
        for stream in streams.values():
            stream.join(GUARD_SECONDS)
        whole = sum(stream.whole for stream in streams.values())
        problems = "; ".join(f"{n}: {s.error or (s.finish_reason, s.usage)}" for n, s in streams.items() if not s.whole)
        text = f"{whole} of {len(streams)} streamed answers of {STREAM_TOKENS} tokens arrived whole"
        self.report.check(f"{text}: {problems}" if problems else text, whole == len(streams))
        wait("the two pods to be gone", lambda: len(self._pods()) == 1)
        self.workers = {p["metadata"]["name"]: self.workers[p["metadata"]["name"]] for p in self._pods()}

    def corruption_is_found(self) -> None:
        self.kube.delete("hpa", manifests.POOL)
        survivor = next(iter(self.workers.values()))
        victim = self.flip_one_bit(survivor)
        self.kube.run("scale", f"vwp/{manifests.POOL}", "--replicas=2")
        worker = next(w for w in self._wait_ready(2) if w.name != survivor.name)
        self._row(worker)
        failures = [f["reason"] for f in worker.state.get("restoreFailures", [])]
        self.report.check(
            f"the pod that met the flipped bit in {victim} said so and started cold ({failures})",
            worker.state.get("startMode") == "Cold" and "DigestMismatch" in failures,
        )
        self.report.check("every worker gave the first one's answer", all(row.same_answer for row in self.report.rows))

    def delete_cleans_up(self) -> None:
        self.kube.delete("vwp", manifests.POOL)
        wait("the pods to be gone", lambda: not self._pods())
        left = wait(
            "owned objects to be gone",
            lambda: [0] if not self.kube.list("service,poddisruptionbudget", POOL_SELECTOR) else None,
        )
        self.report.check("deleting the pool removed its pods, Service and PodDisruptionBudget", bool(left))

    # -- looking ---------------------------------------------------------------------------------------------------

    def _serving(self, worker: Worker) -> str:
        return self.kube.pod_url(self.base, worker.name, SERVING_PORT)

    def _pods(self) -> Sequence[Object]:
        # Not through kubectl: a program a look would take half a core from the workers whose seconds are counted.
        return self.kube.pods(self.base, POOL_SELECTOR)

    def _terminating(self, count: int) -> list[str] | None:
        names = [p["metadata"]["name"] for p in self._pods() if "deletionTimestamp" in p["metadata"]]
        return names if len(names) >= count else None

    def _pool_with_checkpoint(self) -> Object | None:
        pool = self.kube.get("vwp", manifests.POOL)
        return pool if is_true(pool, "CheckpointReady") else None

    def _wait_ready(self, count: int) -> list[Worker]:
        return wait(f"{count} ready workers", lambda: self._look(count), every=0.3)

    def _state(self, pod: str) -> dict[str, Any]:
        """What the worker says of itself."""
        url = self.kube.pod_url(self.base, pod, ADMIN_PORT) + "/state"
        with urllib.request.urlopen(url, timeout=GUARD_SECONDS) as response:
            state: dict[str, Any] = json.load(response)
        return state

    def _look(self, count: int) -> list[Worker] | None:
        """Meets new pods, starts their first-token probes, and returns all once `count` are ready."""
        for pod in self._pods():
            name = pod["metadata"]["name"]
            if name not in self.workers:
                url = self.kube.pod_url(self.base, name, SERVING_PORT)
                worker = Worker(
                    name, _epoch(pod["metadata"]["creationTimestamp"]), FirstToken(url, manifests.MODEL_NAME)
                )
                worker.prober.start()
                self.workers[name] = worker
            worker, ready = self.workers[name], condition(pod, "Ready")
            if worker.ready is None and ready and ready["status"] == "True":
                worker.ready = max(_epoch(ready["lastTransitionTime"]) - worker.created, 0.1)
        done = [w for w in self.workers.values() if w.ready is not None]
        return done if len(done) >= count else None

    def _row(self, worker: Worker) -> None:
        worker.prober.join(GUARD_SECONDS)
        worker.prober.cancel()
        worker.state = self._state(worker.name)
        first = None if worker.prober.at is None else worker.prober.at - worker.created
        same = not self.answer or greedy(self._serving(worker), manifests.MODEL_NAME) == self.answer
        failures = worker.state.get("restoreFailures") or []
        reason = failures[-1]["reason"] if failures else str(worker.state.get("startReason"))
        assert worker.ready is not None
        self.report.rows.append(Row(worker.name, str(worker.state.get("startMode")), reason, worker.ready, first, same))


def make_model(kube: Kube, image: str, script: pathlib.Path) -> None:
    """Make the tiny model on the claim, with a Job that runs in the worker image."""
    kube.delete("job", "make-model")
    kube.apply(manifests.model_script(script), manifests.model_job(image))

    def finished() -> Object | None:
        job = kube.get("job", "make-model")
        if job and is_true(job, "Failed"):
            raise RuntimeError(
                "the Job that makes the model failed: " + kube.run("logs", "job/make-model", "--tail=20")
            )
        return job if job and is_true(job, "Complete") else None

    with progress.step("making a tiny random model on the shared claim (15 s)"):
        wait("the model", finished)
