"""What going to zero and back is tested with: pods that are processes, clients that find them by EndpointSlices as a
node's proxy does, and a count of what became of each request.
"""

import http.client
import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.network import PREFIX
from controlplane.node import Node
from controlplane.workers import PIECES, Workers, alive
from patience import GUARD_SECONDS, until
from vernal_contract import names
from vernal_contract.state import WorkerState, encode
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import PODS, SLICES, Kind

NODES = Kind("", "v1", "Node", "nodes", namespaced=False)
_PROBES_PORT = 8081


class ProcessNode(Node):
    """A node whose workers are processes at addresses of their own. Pods become ready while `go` is set."""

    def __init__(self, client: Client, asked: Path) -> None:
        super().__init__(client)
        client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}})
        self.go = threading.Event()
        self.go.set()
        self._workers = Workers(self.port, asked)
        self._forking = threading.Lock()
        self._pids: dict[str, int] = {}  # by address

    def close(self) -> None:
        super().close()
        self.go.set()
        for pid in self._pids.values():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._workers.close()

    def _address(self) -> str:
        with self._lock:
            number = next(self._numbers)
        return f"{PREFIX}.{number >> 8 & 127}.{number & 255}"

    def _serve(self, address: str, state: WorkerState) -> None:
        if state.ready:
            self.go.wait(GUARD_SECONDS)
            with self._forking:
                self._pids[address] = self._workers.start(address, encode(state))

    def _end(self, pod: dict[str, Any]) -> None:
        """As a kubelet: SIGTERM, and the pod is gone when its process is."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        current = self._client.get(PODS, namespace, name)
        pid = self._pids.get(current.get("status", {}).get("podIP", ""))
        if pid is not None and alive(pid):
            os.kill(pid, signal.SIGTERM)
            until(f"{name} to drain", lambda: not alive(pid))
        super()._end(pod)

    def crash(self, pod: dict[str, Any]) -> None:
        """Its process is killed, and a new one started in its place, as a kubelet does."""
        address = pod["status"]["podIP"]
        os.kill(self._pids[address], signal.SIGKILL)
        until("it to be dead", lambda: not alive(self._pids[address]))
        self._status(pod, address, ready=False)
        with self._forking:
            self._pids[address] = self._workers.start(address, encode(self._state(pod, ready=True)))
        self._restarted(pod, address)

    def _restarted(self, pod: dict[str, Any], address: str) -> None:
        self._status(pod, address, ready=True)
        path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"], "status")
        current = self._client.get(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        (status,) = current["status"]["containerStatuses"]
        body = {"status": {"containerStatuses": [status | {"restartCount": 1, "started": True}]}}
        self._client._json("patch", PODS, path, None, body)


class Waker:
    """A waker process at an address of its own, with the chart's rights."""

    def __init__(self, address: str, kubeconfig: Path, log: Path, env: Mapping[str, str]) -> None:
        self.address, self._log = address, log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "vernal_waker.main", "--all-namespaces", "--host", address,
                    "--probes-host", address, "--probes-port", str(_PROBES_PORT), "--propagation-seconds", "1",
                ],
                env=os.environ
                | {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **env},
                stdout=out, stderr=out,
            )  # fmt: skip

    def wait_ready(self) -> None:
        until(f"the waker at {self.address} to be ready", self._ready, more=self._log.read_text)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _ready(self) -> bool:
        assert self._process.poll() is None, "the waker ended"
        try:
            return self._get("/readyz")[0] == 200
        except OSError:
            return False

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.address, _PROBES_PORT, timeout=GUARD_SECONDS)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def metric(self, sample: str) -> float:
        """A sample's value, 0 where it is not there."""
        for line in self._get("/metrics")[1].splitlines():
            if line.startswith(sample + " "):
                return float(line.split()[-1])
        return 0.0

    @property
    def held(self) -> float:
        lines = [
            line for line in self._get("/metrics")[1].splitlines() if line.startswith("vernal_waker_requests_held{")
        ]
        return sum(float(line.split()[-1]) for line in lines)

    @property
    def resident(self) -> int:
        """Bytes."""
        return int(self.metric("process_resident_memory_bytes"))

    def end(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.wait(GUARD_SECONDS)


def lead_to(client: Client, namespace: str, name: str, addresses: list[str]) -> None:
    """The EndpointSlice of the wakers' Service, as Kubernetes keeps it for their pods."""
    body = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-x", "namespace": namespace, "labels": {names.LABEL_SERVICE: name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": "metrics", "port": _PROBES_PORT, "protocol": "TCP"}],
    }
    client.apply(SLICES, namespace, body)


class Proxy(threading.Thread):
    """Where a Service leads, as a node's proxy knows it: all EndpointSlices of the Service, in the order of their
    changes.
    """

    def __init__(self, client: Client, namespace: str, service: str) -> None:
        super().__init__(daemon=True, name="proxy")
        self._client, self._namespace, self._service = client, namespace, service
        self._slices: dict[str, dict[str, Any]] = {}
        self._stopped = threading.Event()
        self.failure: BaseException | None = None
        self.nowhere = 0  # times at which, having led somewhere, it led nowhere
        self.changed = threading.Condition()
        self.start()

    def run(self) -> None:
        query = {"labelSelector": f"{names.LABEL_SERVICE}={self._service}"}
        try:
            while not self._stopped.is_set():
                try:
                    listed = json.loads(self._client.list_page(SLICES, self._namespace, query))
                    self._slices = {item["metadata"]["name"]: item for item in listed["items"]}
                    more = {"resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "300"}
                    with self._client.watch(SLICES, self._namespace, query | more, idle=600) as watch:
                        for line in watch:
                            self._take(json.loads(line))
                except ApiError:
                    self._stopped.wait(0.1)
        except BaseException as error:
            self.failure = error
            raise

    def stop(self) -> None:
        self._stopped.set()

    def _take(self, event: dict[str, Any]) -> None:
        led = bool(self.ready())
        name = event["object"]["metadata"]["name"]
        with self.changed:
            if event["type"] == "DELETED":
                self._slices.pop(name, None)
            elif event["type"] in ("ADDED", "MODIFIED"):
                self._slices[name] = event["object"]
            self.changed.notify_all()
        if led and not self.ready():
            self.nowhere += 1

    def ready(self) -> list[tuple[str, int]]:
        assert self.failure is None, self.failure
        return [
            (endpoint["addresses"][0], one["ports"][0]["port"])
            for one in list(self._slices.values())
            for endpoint in one.get("endpoints") or ()
            if endpoint.get("conditions", {}).get("ready") is not False and one.get("ports")
        ]

    def leads_to_the_waker(self) -> bool:
        return any(port != names.PORT_SERVING for _, port in self.ready())

    def leads_to_workers_only(self) -> bool:
        found = self.ready()
        return bool(found) and all(port == names.PORT_SERVING for _, port in found)


@dataclass
class Tally:
    """What became of requests."""

    answered: int = 0
    again: Counter[str] = field(default_factory=Counter)  # tried again by the client, as clients of OpenAI's API do
    lost: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


_ids = itertools.count(1)


class Asker:
    """Sends requests one after the other, on a connection that it keeps while it can."""

    def __init__(self, proxy: Proxy, tally: Tally, *, survives: bool = False) -> None:
        """`survives`: a connection that breaks before any answer is tried again, as OpenAI's client does; for tests
        that kill what the connection leads to.
        """
        self._proxy, self._tally, self._survives = proxy, tally, survives
        self.headers = {"Content-Type": "application/json"}
        self.answered_with: http.client.HTTPMessage | None = None  # the headers of the last answer
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, wait: Path | None = None) -> str:
        """The request's id, whatever became of it."""
        identity = f"r{next(_ids)}"
        body = {"id": identity} | ({"wait": str(wait)} if wait is not None else {})
        try:
            problem = self._until_answered(json.dumps(body))
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        with self._tally.lock:
            if problem is None:
                self._tally.answered += 1
            else:
                self._tally.lost.append(f"{identity}: {problem}")
        return identity

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _until_answered(self, body: str) -> str | None:
        while True:
            status, refused, text = self._once(body)
            if status == 200:
                whole = text.count("data: ") == PIECES + 1 and text.endswith("data: [DONE]\n\n")
                return None if whole else f"an answer that is not whole: {text!r}"
            if not (status == 503 and refused):
                return f"HTTP {status}: {text}"
            self._note("not accepted")

    def _once(self, body: str) -> tuple[int, bool, str]:
        while True:
            connection = self._open()
            try:
                connection.request("POST", "/v1/completions", body, self.headers)
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException):
                self.close()
                if not self._survives:
                    raise
                self._note("no answer")
                continue
            try:
                text, self.answered_with = answer.read().decode(), answer.headers
            except (OSError, http.client.HTTPException):
                self.close()
                raise
            if answer.will_close:
                self.close()
            return answer.status, answer.getheader("x-vernal-not-accepted") is not None, text

    def _note(self, what: str) -> None:
        with self._tally.lock:
            self._tally.again[what] += 1

    def _open(self) -> http.client.HTTPConnection:
        if self._connection is not None and self._connection.sock is not None:
            if not select.select([self._connection.sock], [], [], 0)[0]:
                return self._connection
            self.close()  # the other side has closed it, which clients see before they use it again
        found = self._proxy.ready()
        if not found:
            raise OSError("the Service leads nowhere")
        address, port = random.choice(found)
        self._connection = http.client.HTTPConnection(address, port, timeout=GUARD_SECONDS)
        return self._connection
