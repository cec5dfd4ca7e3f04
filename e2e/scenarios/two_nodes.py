"""A pool over the two nodes of the embedded cluster: one freezes, the other thaws; one is drained, and is lost.

Where a pod may go is said by cordons, so that each step has the one that it is about.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.layout import Node, State, state_dir
from common.progress import note, show
from patience import GUARD_SECONDS

from scenarios import manifests, setup
from scenarios.client import STREAM_TOKENS, greedy, release
from scenarios.kube import Kube, Object, is_true, wait
from scenarios.lifecycle import Lifecycle, Worker
from scenarios.report import Report

FIRST, SECOND = (Node(State(state_dir()), number).name for number in (1, 2))
CACHE = State(state_dir()).local / "cache"
"""The chart's nodeCache.directory: on both nodes, and on a disk of its own on each."""


def take_pods(kube: Kube, *nodes: str) -> None:
    """Let new pods go to these nodes, and to no others."""
    for node in (FIRST, SECOND):
        kube.run("uncordon" if node in nodes else "cordon", node)


class TwoNodes(Lifecycle):
    """The scenario. `run` returns the report."""

    steps = 6

    def __init__(self, kube: Kube, base: str, image: str) -> None:
        super().__init__(kube, base, image)
        self._uids: dict[str, str] = {}  # of the pods of `workers`: a name comes again

    def run(self) -> Report:
        with self.step(1, f"one replica on {FIRST}: starts cold, freezes, fills its node's cache (1 min)"):
            self.freezes_on_the_first()
        with self.step(2, f"one more, on {SECOND}: thaws from the shared claim what the other node froze (20 s)"):
            self.thaws_on_the_second()
        with self.step(3, f"{SECOND} is drained, with an answer held half-way on every pod (1 min)"):
            self.drain_loses_nothing()
        with self.step(4, f"{SECOND} takes a pod again, which thaws from the cache that it filled before (30 s)"):
            self.comes_to_the_second_again()
        with self.step(5, f"{SECOND} is lost with its pod: the other node gets a successor (90 s)"):
            self.loss_is_made_up_for()
        with self.step(6, f"{SECOND} comes back, and the pool is deleted (1 min)"):
            self.comes_back()
            self.delete_cleans_up()
        self.report.check("every worker gave the first one's answer", all(row.same_answer for row in self.report.rows))
        return self.report

    # -- steps -------------------------------------------------------------------------------------------------------

    def freezes_on_the_first(self, fill: str = "Filled") -> None:
        """`fill`: what becomes of the node's cache."""
        take_pods(self.kube, FIRST)
        self.kube.apply(self.pool())
        (worker,) = self._settled(FIRST)
        wait("the checkpoint", self._pool_with_checkpoint)
        self._row(worker)
        self.answer = greedy(self._serving(worker), manifests.MODEL_NAME)
        published = (worker.state.get("freeze") or {}).get("outcome")
        self.report.check(
            f"the worker on {FIRST} started cold and froze itself ({published})",
            (worker.state.get("startMode"), published) == ("Cold", "Published"),
        )
        self._filled(worker, FIRST, fill)

    def thaws_on_the_second(self) -> None:
        frozen = self._generation(next(iter(self.workers.values())))
        take_pods(self.kube, SECOND)
        self.kube.run("scale", f"vwp/{manifests.POOL}", "--replicas=2")
        worker = self._newest(FIRST, SECOND)
        self._thawed(worker, SECOND, "Miss")
        self.report.check(
            f"it is the one that {FIRST} froze ({frozen[:12]})", bool(frozen) and self._generation(worker) == frozen
        )
        self._filled(worker, SECOND)
        show(self.kube.run("get", "pods", "-o", "wide"))

    def drain_loses_nothing(self) -> None:
        """The answers are held until the pod of the drained node says that it drains: they are in flight for sure."""
        take_pods(self.kube, FIRST)
        (leaving,) = self._on(SECOND)
        streams = self._held()
        with ThreadPoolExecutor(1) as aside:
            drain = aside.submit(self.kube.run, "drain", SECOND, "--ignore-daemonsets", "--delete-emptydir-data")
            wait(f"{leaving} to drain", lambda: self._state(leaving)["phase"] == "Draining" or drain.done())
            in_flight = streams[leaving].is_alive()
            for name in streams:
                release(self.kube, name)
            note("waiting for the streamed answers to end")
            for stream in streams.values():
                stream.join(GUARD_SECONDS)
            drain.result(GUARD_SECONDS)  # raises what kubectl had to say
        self.report.check(f"an answer was in flight on {SECOND} when its drain began", in_flight)
        whole = sum(stream.whole for stream in streams.values())
        wrong = "; ".join(f"{n}: {s.error or (s.finish_reason, s.usage)}" for n, s in streams.items() if not s.whole)
        self.report.check(
            f"{whole} of {len(streams)} streamed answers of {STREAM_TOKENS} tokens arrived whole {wrong}".rstrip(),
            whole == len(streams),
        )
        self._thawed(self._newest(FIRST, FIRST), FIRST, "Hit")
        self.report.check(f"nothing of the pool is left on {SECOND}", not self._on(SECOND))

    def comes_to_the_second_again(self) -> None:
        take_pods(self.kube, SECOND)
        self.kube.delete("pod", self._on(FIRST)[0], wait=False)
        self._thawed(self._newest(FIRST, SECOND), SECOND, "Hit")

    def loss_is_made_up_for(self) -> None:
        take_pods(self.kube, FIRST, SECOND)
        setup.node("stop", SECOND)
        self._thawed(self._newest(FIRST, FIRST), FIRST, "Hit")

        def counted() -> bool:
            pool = self.kube.get("vwp", manifests.POOL) or {}
            return bool(pool.get("status", {}).get("readyReplicas") == 2)

        self.report.check(f"the pool counts its two replicas without {SECOND}", wait("the pool's status", counted))

    def comes_back(self) -> None:
        setup.node("start", SECOND)
        gone = wait("what was lost with the node to be gone", lambda: len(self._pods()) == 2)
        self.report.check(f"{SECOND} is back, and the pod that was lost with it is forgotten", gone)

    # -- looking -----------------------------------------------------------------------------------------------------

    def pool(self) -> Object:
        return manifests.impatient(manifests.pool(self.image, replicas=1))

    def _on(self, node: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self._pods() if pod["spec"].get("nodeName") == node]

    def _settled(self, *nodes: str) -> list[Worker]:
        """Wait until the pods that stay are ready and on these nodes. Others are forgotten."""

        def there() -> list[Worker] | None:
            self._forget_namesakes()
            self._look(0)
            staying = [pod for pod in self._pods() if "deletionTimestamp" not in pod["metadata"]]
            ready = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in staying if is_true(pod, "Ready")}
            if len(staying) != len(nodes) or sorted(ready.values()) != sorted(nodes) or ready.keys() - self.workers:
                return None
            self.workers = {name: self.workers[name] for name in ready}
            return list(self.workers.values()) if all(w.ready is not None for w in self.workers.values()) else None

        return wait(f"ready workers on {' and '.join(nodes)}", there)

    def _forget_namesakes(self) -> None:
        for pod in self._pods():
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            if self._uids.setdefault(name, uid) != uid:
                self._uids[name] = uid
                self.workers.pop(name, None)

    def _newest(self, *nodes: str) -> Worker:
        """Of the workers on these nodes, once they are ready, the one that was not there before; it is in the table."""
        before = {self._uids[name] for name in self.workers}
        (new,) = (worker for worker in self._settled(*nodes) if self._uids[worker.name] not in before)
        self._row(new)
        return new

    def _thawed(self, worker: Worker, node: str, lookup: str) -> None:
        cache = self._cache(worker)
        self.report.check(
            f"the new worker on {node} thawed ({worker.state.get('startMode')}, {worker.state.get('startReason')}); "
            f"the node's cache: {cache.get('lookup')}, {cache.get('bytes', 0) / 1e6:.0f} MB of it",
            (worker.state.get("startMode"), cache.get("lookup")) == ("Restored", lookup),
        )

    def _filled(self, worker: Worker, node: str, fill: str = "Filled") -> None:
        def filled() -> bool:
            worker.state = self._state(worker.name)
            return self._cache(worker).get("fill") is not None

        wait(f"the cache of {node}", filled)
        cache = self._cache(worker)
        self.report.check(
            f"what it did with the cache of {node}: {cache['fill']}, {cache.get('filledBytes', 0) / 1e6:.0f} MB "
            f"{cache.get('message', '')}".rstrip(),
            cache["fill"] == fill,
        )

    @staticmethod
    def _cache(worker: Worker) -> dict[str, Any]:
        return worker.state.get("nodeCache") or {}

    @staticmethod
    def _generation(worker: Worker) -> str:
        return str((worker.state.get("artifact") or {}).get("generation", ""))
