#!/usr/bin/env python3
"""The operator with 100 pools and 10,000 pods on a real API server: how soon, how much memory, how many calls.

Pods are API objects, and their workers one process that answers `GET /state` on 10,000 addresses of loopback. Between
the operator and the API server is the proxy of the control-plane tests, which counts calls and notes when they came;
what it costs is in every figure. Exit status 0 if the operator behaved: all pools reconciled, every event answered, and
in a minute of rest not one call but watches and the renewals of its lease. Speed is printed and not judged.

  make bench-operator                                                  # all of it
  make bench-operator BENCH="--pools 20 --replicas 10 --no-plain"      # small
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fleet
import yaml
from cluster.apiserver import ApiServer
from controlplane.cases import CORE, SYSTEM, kubeconfig
from controlplane.chart import KINDS, token
from controlplane.node import pod_status
from controlplane.proxy import Call, FaultProxy
from controlplane.server import installed
from patience import until
from vernal_operator.client import Client
from vernal_operator.kinds import CHECKPOINTS, PODS, POOLS
from workers import Workers, address

HERE = Path(__file__).parent
EVENTS, BURST = 300, 100
REST_SECONDS = 60.0
PLAIN_SECONDS = 120.0
"""How long the comparison may take for its first reconcile of all pools before it is given up."""


class Process:
    """An operator behind a proxy of its own."""

    def __init__(self, name: str, command: Sequence[str], api: ApiServer, directory: Path, token: str) -> None:
        self.proxy = FaultProxy(api.url, api.pki / "ca.crt")
        config = directory / f"{name}.kubeconfig"
        config.write_text(yaml.dump(kubeconfig(self.proxy.url, token)))
        self.log = directory / f"{name}.log"
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"KUBECONFIG": str(config)},
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.proxy.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def memory(self) -> tuple[int, int]:
        """RSS in MB now, and at most."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        now, most = (int(re.findall(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[0]) for name in ("VmRSS", "VmHWM"))
        return round(now / 1000), round(most / 1000)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def calls(self, since: float) -> list[Call]:
        """Calls but watches, lists of a kind, leader election, and what kinds there are."""
        return [call for call in self.proxy.others(since) if not call.is_discovery]

    def tail(self) -> str:
        return self.log.read_text()[-3000:]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Bench:
    def __init__(self, api: ApiServer, client: Client, given: argparse.Namespace, directory: Path) -> None:
        self.api, self.client, self.given, self.directory = api, client, given, directory
        self._pods: dict[str, dict[str, Any]] = {}  # by address
        self.rows: list[tuple[str, str, str]] = []
        self.wrong: list[str] = []

    def row(self, what: str, found: str, target: str = "") -> None:
        self.rows.append((what, found, target))
        say(f"{what}: {found}{f' (target: {target})' if target else ''}")

    def run(self) -> None:
        given = self.given
        began = time.monotonic()
        answers = fleet.make(self.client, given.pools, given.replicas)
        say(f"made {given.pools} pools and {len(answers)} pods in {time.monotonic() - began:.0f} s")
        workers = Workers(answers)
        try:
            self._first(workers)
            self._again(workers)
        finally:
            workers.close()
        if not given.no_plain:
            self._plain(fleet.namespace(0), min(given.pools, (given.pools + 9) // fleet.NAMESPACES))
            self._plain("-", given.pools)

    def _operator(self, name: str, workers: Workers) -> tuple[Process, int]:
        port = free_port()
        command = [
            "-m", "vernal_operator.main", "run", "-A", f"--lease={SYSTEM}/bench", "--identity=bench",
            f"--metrics-port={port}", f"--admin-port={workers.port}",
        ]  # fmt: skip
        return Process(name, command, self.api, self.directory, token(self.client, "vernal")), port

    def _first(self, workers: Workers) -> None:
        """Pools that no operator has seen: children, revisions, checkpoints and statuses are written."""
        process, port = self._operator("first", workers)
        with process:
            self._reconciled(workers, process, port, "from nothing: ")
            until("every pool to be settled", self._settled, more=process.tail)
            self.row("from nothing: all pools settled, all children made", f"{time.monotonic() - process.began:.1f} s")
            self._rest(process, 5.0)
            self.row("from nothing: calls", f"{len(process.calls(0.0))} for {self.given.pools} pools")

    def _again(self, workers: Workers) -> None:
        """The operator starts anew, with nothing to do; then things happen."""
        workers.forget()
        process, port = self._operator("again", workers)
        with process:
            self._reconciled(workers, process, port, "", "< 10 s")
            self._rest(process, 5.0)
            self.row("calls in the first reconcile of all", str(len(process.calls(0.0))), "0")
            self.row("CPU until then", f"{process.cpu_seconds():.1f} s")
            since, before = time.monotonic(), reconciles(port)
            self._events(process)
            count, rounds = len(process.calls(since)), reconciles(port) - before
            self.row("API calls a reconcile", f"{count / max(1, rounds):.2f} ({count} in {rounds})")
            self._rest(process, 5.0)
            began = time.monotonic()
            time.sleep(REST_SECONDS)
            calls = [call for call in list(process.proxy.calls) if call.at > began]
            made = Counter(f"{c.method} {c.path}" for c in calls if not (c.is_lease or c.is_watch))
            self.row(f"calls in {REST_SECONDS:.0f} s of rest", str(made.total()), "0")
            if made:
                self.wrong.append(f"calls at rest: {dict(made)}")
            now, most = process.memory()
            self.row("RSS", f"{now} MB, at most {most} MB", "< 150 MB")
            self.row("CPU in all", f"{process.cpu_seconds():.1f} s in {time.monotonic() - process.began:.0f} s")
            self.row("reads of /state, given up before they were sent", f"{workers.reads}, {workers.given_up}")
            if not process.alive:
                self.wrong.append("the operator ended")

    def _reconciled(self, workers: Workers, process: Process, port: int, prefix: str, target: str = "") -> None:
        """All pools are due before the first is taken, and what is due again comes behind them: as many reconciles as
        there are pools are one of each. Then their workers are asked, of whom nothing is known.
        """
        pools = self.given.pools
        until("all pools to be reconciled", lambda: _pools_reconciled(port) >= pools, more=process.tail)
        took = time.monotonic() - process.began
        self.row(f"{prefix}first reconcile of all pools", f"{took:.1f} s after the start", target)
        until("every worker to be asked", lambda: all(workers.asked), more=process.tail)
        self.row(f"{prefix}all workers asked", f"{max(workers.asked) - process.began:.1f} s after the start")

    def _settled(self) -> bool:
        time.sleep(1.0)
        pools = json.loads(self.client.list_page(POOLS, None, {}))["items"]
        checkpoints = json.loads(self.client.list_page(CHECKPOINTS, None, {}))["items"]
        told = [pool.get("status", {}) for pool in pools]
        ready = all(status.get("readyReplicas") == self.given.replicas for status in told)
        thawed = all(status.get("restoredReplicas") == self.given.replicas for status in told)
        return ready and thawed and len(checkpoints) == len(pools)

    def _rest(self, process: Process, seconds: float) -> None:
        """Until nothing was called for so long."""

        def quiet() -> bool:
            time.sleep(0.2)
            last = max([call.at for call in process.calls(0.0)], default=process.began)
            return time.monotonic() - last > seconds

        until("the operator to come to rest", quiet, more=process.tail)

    def _events(self, process: Process) -> None:
        """A worker that was ready is not, and is again: each is followed by one status of its pool."""
        one = [self._event(process, number) for number in range(EVENTS)]
        self._told("event to first write, one at a time", one, "p99 < 250 ms")
        since = time.monotonic()
        numbers = range(min(BURST, self.given.pools))
        sent = {number: self._change(number, EVENTS + number) for number in numbers}
        found = [self._written(process, number, since) - at for number, at in sent.items()]
        self._told(f"event to first write, {len(found)} pools one after the other without a pause", found)

    def _event(self, process: Process, number: int) -> float:
        which = number % self.given.pools
        since = time.monotonic()
        sent = self._change(which, number)
        return self._written(process, which, since) - sent

    def _change(self, which: int, number: int) -> float:
        """Turn one of a pool's workers over. Returns when the request was sent."""
        slot = number // self.given.pools // 2 % self.given.replicas
        place = which * self.given.replicas + slot
        if not self._pods:
            for index in range(min(self.given.pools, fleet.NAMESPACES)):
                for pod in json.loads(self.client.list_page(PODS, fleet.namespace(index), {}))["items"]:
                    self._pods[pod["status"]["podIP"]] = pod
        pod = self._pods[address(place)]
        ready = number // self.given.pools % 2 == 1
        sent = time.monotonic()
        fleet.set_status(self.client, pod, pod_status(address(place), ready=ready))
        return sent

    def _written(self, process: Process, which: int, since: float) -> float:
        """When the first write for this pool came."""
        end = POOLS.path(fleet.namespace(which), fleet.name(which), "status")

        def found() -> float | None:
            calls = list(itertools.takewhile(lambda call: call.at >= since, reversed(process.proxy.calls)))
            return min([call.at for call in calls if call.is_write and call.path == end], default=None)

        return until(f"a write of {fleet.name(which)}", found, more=process.tail)

    def _told(self, what: str, seconds: list[float], target: str = "") -> None:
        p99 = statistics.quantiles(seconds, n=100, method="inclusive")[98]
        text = f"p50 {statistics.median(seconds) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, {len(seconds)} events"
        self.row(what, text, target)

    def _plain(self, where: str, pools: int) -> None:
        """The comparison. It may fail; that is what it is measured for."""
        what = f"plain kopf.index, {pools} pools and {pools * self.given.replicas} pods: "
        script = [str(HERE / "plain.py"), where]
        with Process(f"plain-{pools}", script, self.api, self.directory, _administrator(self.client)) as process:
            deadline = time.monotonic() + PLAIN_SECONDS
            while time.monotonic() < deadline and process.alive and not _all_told(process, pools):
                time.sleep(0.1)
            took = time.monotonic() - process.began
            if not process.alive:
                found = f"ended by itself after {took:.0f} s: {process.tail()[-200:]}"
            elif _all_told(process, pools):
                found = f"{took:.1f} s after the start"
            else:
                done = process.log.read_text().count("reconciled")
                found = f"given up after {took:.0f} s, with {done} of {pools} pools reconciled"
            self.row(f"{what}first reconcile of all pools", found)
            if process.alive:
                now, most = process.memory()
                self.row(f"{what}RSS", f"{now} MB, at most {most} MB")
                self.row(f"{what}CPU", f"{process.cpu_seconds():.1f} s")

    def table(self) -> str:
        widths = [max(len(row[column]) for row in self.rows) for column in range(3)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in self.rows
        )


def _all_told(process: Process, pools: int) -> bool:
    return f"reconciled {pools}\n" in process.log.read_text()


def _administrator(client: Client) -> str:
    """The token of an account that may do everything."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "plain", "namespace": SYSTEM}}
    client.apply(CORE["ServiceAccount"], SYSTEM, account)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "plain"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "plain", "namespace": SYSTEM}],
    }
    client.apply(KINDS["ClusterRoleBinding"], "", binding)
    return token(client, "plain")


def reconciles(port: int, kind: str = "") -> int:
    """How many reconciles the operator has ended, of that kind or of both."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        text = response.read().decode()
    found = re.findall(rf"^vernal_operator_reconciles_total{{.*{kind}.*}} (\S+)$", text, re.MULTILINE)
    return sum(int(float(number)) for number in found)


def _pools_reconciled(port: int) -> int:
    time.sleep(0.1)
    try:
        return reconciles(port, POOLS.name)
    except OSError:
        return 0  # it does not listen yet


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def machine() -> str:
    cpu = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{os.cpu_count()} cores ({cpu[0] if cpu else platform.machine()}), Python {platform.python_version()}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=100, metavar="N", help="pools (default %(default)s)")
    parser.add_argument("--replicas", type=int, default=100, metavar="N", help="pods of each (default %(default)s)")
    parser.add_argument("--no-plain", action="store_true", help="without the comparison")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as after Ctrl-C
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vernal-bench-")))
        api = stack.enter_context(ApiServer())
        bench = Bench(api, installed(api), given, directory)
        bench.run()
    print(f"\n{machine()}\n{bench.table()}", flush=True)
    for wrong in bench.wrong:
        print(f"WRONG: {wrong}")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
