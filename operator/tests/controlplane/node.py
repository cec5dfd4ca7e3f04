"""Makes pods look run: a kubelet of a few lines, the workers' `GET /state` on loopback addresses, and a Job controller
that calls every janitor Job done. The operator reads real pods from a real API server and real HTTP from "workers".
"""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from common.ports import free_port
from patience import GUARD_SECONDS
from vernal_contract import names
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.state import (
    ArtifactRef,
    FreezeOutcome,
    FreezeReport,
    Phase,
    StartMode,
    WorkerState,
    decode,
    encode,
)
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import JOBS, PODS, Kind

UNPULLABLE = "worker:unpullable"
"""An image that no registry has."""
SINGLE = "worker:single"
"""An image that is pulled for the first pod of a namespace alone, as if for one node."""

BINDINGS = Kind("", "v1", "Binding", "bindings")
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Node:
    """Runs the pods of all pools of one API server. `port` is the admin port on every worker's own address."""

    def __init__(self, client: Client, start_seconds: float = 0.1) -> None:
        self._client, self._start_seconds = client, start_seconds
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._artifacts: dict[tuple[str, str], str] = {}  # generation, by namespace and identity
        self._answers: dict[str, bytes] = {}  # address -> body
        self._since: dict[str, float] = {}  # address -> when its worker started: of two, the later one is believed
        self.lies: dict[tuple[str, str], Callable[[WorkerState], WorkerState]] = {}
        """What workers of a pool, by namespace and name, make of each answer."""
        self.ends: dict[str, threading.Event] = {}
        """By namespace: pods that were deleted stay until it is set."""
        self._seen: dict[str, str] = {}  # uid -> the last that was done for it
        self._numbers = itertools.count(256 * 256 + 1)
        self.reads = 0  # of all workers together
        self._problems: list[str] = []
        self.port = free_port("127.1.0.1")
        self._loop = asyncio.new_event_loop()
        for target in (self._pods, self._jobs, self._loop.run_forever):
            self._thread(target)

    def close(self) -> None:
        self._stopped.set()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def check(self) -> None:
        """Raises AssertionError if it is broken itself, so that nobody waits for what it would have done."""
        assert not self._problems, f"the node of the tests is broken: {self._problems}"

    def give_up(self, why: str) -> None:
        """Let all that waits for it end."""
        self._problems.append(why)

    # -- the kubelet ---

    def _pods(self) -> None:
        self._follow(PODS, names.LABEL_POOL, self._pod)

    def _pod(self, pod: dict[str, Any]) -> None:
        meta, uid = pod["metadata"], pod["metadata"]["uid"]
        if meta.get("deletionTimestamp"):
            if self._first(uid, "end"):
                self._later(0.1, lambda: self._end(pod))
        elif not pod["spec"].get("schedulingGates") and self._first(uid, "start"):
            self._thread(partial(self._start, pod))

    def _start(self, pod: dict[str, Any]) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        address = self._address()
        try:
            binding = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": "node"},
            }
            self._client._json("create", PODS, PODS.path(namespace, name, "binding"), None, binding)
            image = _worker(pod)["image"]
            if image == UNPULLABLE or (image == SINGLE and not self._first(f"{namespace} {image}", "pull")):
                self._status(pod, None, ready=False)
                return
            self._serve(address, self._state(pod, ready=False))
            self._status(pod, address, ready=False)
            time.sleep(self._start_seconds)
            self._serve(address, self._state(pod, ready=True))
            self._status(pod, address, ready=True)
        except ApiError as error:
            if not _gone(error):
                raise

    def _address(self) -> str:
        with self._lock:
            number = next(self._numbers)
        return f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def _status(self, pod: dict[str, Any], address: str | None, *, ready: bool) -> None:
        status = pod_status(address, ready=ready)
        path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"], "status")
        self._client._json("patch", PODS, path, None, {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status})

    def _end(self, pod: dict[str, Any]) -> None:
        if (gate := self.ends.get(pod["metadata"]["namespace"])) is not None:
            gate.wait(GUARD_SECONDS)
        path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"])
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        self._client._json("delete", PODS, path, None, body)

    # -- its worker ---

    def _state(self, pod: dict[str, Any], *, ready: bool) -> WorkerState:
        """The first worker of an identity in a namespace freezes itself, later ones thaw."""
        if not ready:
            return state_of(pod, ready=False, known=False)
        key = (pod["metadata"]["namespace"], identity_of(pod)[0])
        avoids = environment_of(pod).get(names.ENV_RENEW, "").split(",")
        with self._lock:
            there = self._artifacts.get(key)
            known = None if there in avoids else there
            generation = known or f"g{int(there[1:]) + 1 if there else 1}"
            self._artifacts[key] = generation
        return state_of(pod, ready=True, known=known is not None, generation=generation)

    def _serve(self, address: str, state: WorkerState) -> None:
        with self._lock:
            new = address not in self._answers
            self._answers[address] = encode(state)
            self._since.setdefault(address, time.monotonic())
        if new:
            server = asyncio.start_server(partial(self._answer, address), address, self.port)
            asyncio.run_coroutine_threadsafe(server, self._loop).result(300)

    async def _answer(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert request.startswith(b"GET /state HTTP/1.1\r\n"), request
        state = decode(self._answers[address])
        state.uptime += time.monotonic() - self._since[address]
        lie = self.lies.get((state.namespace, state.pool))
        body = encode(state if lie is None else lie(state))
        self.reads += 1
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    # -- Jobs ---

    def _jobs(self) -> None:
        self._follow(JOBS, f"{names.LABEL_COMPONENT}={names.COMPONENT_JANITOR}", self._job)

    def _job(self, job: dict[str, Any]) -> None:
        meta = job["metadata"]
        if meta.get("deletionTimestamp") or not self._first(meta["uid"], "done"):
            return
        status = {
            "startTime": now(),
            "completionTime": now(),
            "succeeded": 1,
            "conditions": [
                {"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now()}
                for kind in ("SuccessCriteriaMet", "Complete")
            ],
        }
        path = JOBS.path(meta["namespace"], meta["name"], "status")
        self._later(0.1, lambda: self._client._json("patch", JOBS, path, None, {"status": status}))

    # -- underneath ---

    def _first(self, uid: str, what: str) -> bool:
        with self._lock:
            if self._seen.get(uid) == what:
                return False
            self._seen[uid] = what
            return True

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        def run() -> None:
            self._stopped.wait(seconds)
            try:
                call()
            except ApiError as error:
                if not _gone(error):
                    raise

        self._thread(run)

    def _thread(self, target: Callable[[], object]) -> None:
        def run() -> None:
            try:
                target()
            except BaseException as error:
                if not self._stopped.is_set():
                    self._problems.append(repr(error))
                raise

        threading.Thread(target=run, daemon=True).start()

    def _follow(self, kind: Kind, selector: str, take: Callable[[dict[str, Any]], None]) -> None:
        """List, then watch, for ever; what was seen already is seen again after each list."""
        while not self._stopped.is_set():
            try:
                listed = json.loads(self._client.list_page(kind, None, {"labelSelector": selector}))
                for item in listed["items"]:
                    take(item)
                query = {"labelSelector": selector, "resourceVersion": listed["metadata"]["resourceVersion"]}
                with self._client.watch(kind, None, query, idle=600) as watch:
                    for line in watch:
                        event = json.loads(line)
                        if event["type"] in ("ADDED", "MODIFIED"):
                            take(event["object"])
            except ApiError:
                self._stopped.wait(0.2)


def _gone(error: ApiError) -> bool:
    """Whether the pod was deleted meanwhile; if another one has its name by now, its UID is not the one that was
    given."""
    other = error.reason == "Invalid" and "metadata.uid" in error.sentence
    return error.not_found or error.conflict or other


def identity_of(pod: dict[str, Any]) -> tuple[str, IdentityInputs]:
    """The identity that a pod's worker finds itself to have, and what it consists of."""
    spec = _worker(pod)
    config = msgspec.json.decode(environment_of(pod)[names.ENV_CONFIG])
    inputs = IdentityInputs(
        image_id=spec["image"],
        engine_args=config.get("engineArgs", {}),
        engine_env=config.get("engineEnv", {}),
        model=config["model"]["name"],
        model_revision=config["model"].get("revision"),
        weights="InImage",
        versions={},
    )
    return digest(inputs), inputs


def environment_of(pod: dict[str, Any]) -> dict[str, str]:
    """Of a pod's worker, as far as it is spelt out."""
    return {entry["name"]: entry.get("value", "") for entry in _worker(pod)["env"]}


def state_of(pod: dict[str, Any], *, ready: bool, known: bool, generation: str = "g1") -> WorkerState:
    """What a pod's worker says. A ready one has thawed where there was a checkpoint (`known`), and made one else."""
    meta = pod["metadata"]
    identity, inputs = identity_of(pod)
    state = WorkerState(
        pod=meta["name"],
        namespace=meta["namespace"],
        pool=meta["labels"][names.LABEL_POOL],
        revision=meta["labels"][names.LABEL_REVISION],
        phase=Phase.READY if ready else Phase.STARTING,
        ready=ready,
        identity=identity,
        identity_inputs=inputs,
        host_tuple=digest(HOST),
        host=HOST,
        uptime=1.0,
    )
    if not ready:
        return state
    state.artifact = ArtifactRef(identity=identity, generation=generation, host_tuple=digest(HOST), bytes=1000, files=3)
    state.start_mode = StartMode.RESTORED if known else StartMode.COLD
    state.start_reason = "Restored" if known else "NoArtifact"
    if not known:
        state.freeze = FreezeReport(outcome=FreezeOutcome.PUBLISHED, seconds=1.0)
    state.timings = {"total": 2.0}
    return state


def pod_status(address: str | None, *, ready: bool, since: str | None = None) -> dict[str, Any]:
    """As a kubelet writes it now, or as it wrote it then. Without an address its image cannot be pulled."""
    at, flag = since or now(), "True" if ready else "False"
    waits = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    return {
        "phase": "Running" if address else "Pending",
        **({"podIP": address, "podIPs": [{"ip": address}]} if address else {}),
        "startTime": at,
        "conditions": [
            {"type": kind, "status": status, "lastTransitionTime": at}
            for kind, status in (
                ("PodScheduled", "True"),
                ("Initialized", "True"),
                ("ContainersReady", flag),
                ("Ready", flag),
            )
        ],
        "containerStatuses": [
            {
                "name": names.CONTAINER_WORKER,
                "ready": ready,
                "started": ready,
                "restartCount": 0,
                "image": "x",
                "imageID": "x",
                "state": {"running": {"startedAt": at}} if address else waits,
            }
        ],
    }


def _worker(pod: dict[str, Any]) -> dict[str, Any]:
    """The worker's container, wherever sidecars were put."""
    return next(c for c in pod["spec"]["containers"] if c["name"] == names.CONTAINER_WORKER)
