"""`python -m shutdown storm`: scale-downs and rolls of a pool under a constant load of streams through its Service."""

import collections
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.layout import State, state_dir
from common.progress import say
from patience import GUARD_SECONDS
from scenarios import manifests, setup
from scenarios.client import Stream
from scenarios.kube import Kube, KubeError, is_true, wait
from scenarios.watch import Watch

POOL = manifests.POOL
SELECTOR = f"vernal.dev/pool={POOL}"
GRACE, PROPAGATION, DRAIN = 1830, 3, 1800  # seconds: a slow machine must not look like a lost request
HIGH, LOW = 3, 1
ROLL_EVERY = 8
CLIENTS, TOKENS = 4, 120
PAUSE_SECONDS = 0.4
"""Between a client's streams. Without it they alone would use two cores, and thaws would take four times as long."""


@dataclass
class Outcome:
    """What became of requests and workers. `lost`: accepted, or sent to a server that never said no, and not whole."""

    whole: int = 0
    refused: collections.Counter[str] = field(default_factory=collections.Counter)
    lost: list[str] = field(default_factory=list)
    scale_downs: int = 0
    rolls: int = 0
    workers_gone: int = 0
    longest: float = 0.0
    exit_codes: collections.Counter[str] = field(default_factory=collections.Counter)
    orphans: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        bad_codes = set(self.exit_codes) - {"0", "unseen"}
        return not (self.lost or self.orphans or self.leaked or bad_codes) and self.whole > 0

    def render(self) -> str:
        codes = ", ".join(f"{count} times {code}" for code, count in sorted(self.exit_codes.items()))
        refused = ", ".join(f"{count} {kind}" for kind, count in self.refused.items()) or "none"
        return "\n".join([
            f"{self.scale_downs} scale-downs and {self.rolls} rolls in {self.seconds / 60:.1f} min, "
            f"{self.workers_gone} workers gone",
            f"streams: {self.whole} whole, {len(self.lost)} lost; refused before they were accepted: {refused}",
            f"longest termination {self.longest:.1f} s; exit codes: {codes}",
            f"processes left: {len(self.orphans)}; mounts and directories of /dev/shm left: {len(self.leaked)}",
            *(f"  lost: {each}" for each in self.lost[:20]),
            *(f"  left: {each}" for each in (self.orphans + self.leaked)[:20]),
        ])  # fmt: skip


class Clients:
    """A constant load of streams, each on a connection of its own, until `stop`."""

    def __init__(self, base: str, outcome: Outcome) -> None:
        self._base, self._outcome = base, outcome
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(GUARD_SECONDS)

    def _run(self) -> None:
        while not self._over.is_set():
            stream = Stream(self._base, manifests.MODEL_NAME, TOKENS)
            stream.run()
            with self._lock:
                self._judge(stream)
            self._over.wait(PAUSE_SECONDS)

    def _judge(self, stream: Stream) -> None:
        error = stream.error or ""
        if stream.whole:
            self._outcome.whole += 1
        elif error.startswith("HTTP 503") or "ConnectionRefused" in error:
            self._outcome.refused["HTTP 503" if error.startswith("HTTP") else "connection refused"] += 1
        else:
            text = f"{time.strftime('%H:%M:%S')} {error or (stream.finish_reason, stream.usage, stream.done)}"
            self._outcome.lost.append(f"{text} after {stream.chunks} chunks")
            say(f"  LOST: {text}")


def run(count: int, seed: int, seconds: float) -> Outcome:
    """`count` scale-downs and rolls, or as many as `seconds` allow."""
    if not setup.embedded():
        raise KubeError("the storm sends requests to the Service's address: it needs the embedded cluster "
                        "(unset KUBECONFIG)")  # fmt: skip
    images = setup.cluster_with_images()
    setup.install(images)
    outcome = Outcome()
    with setup.namespace("vernal-storm") as kube:
        setup.prepare_model(kube, images)
        kube.apply(pool(images.worker, replicas=1, turn=0))
        say("the first worker starts cold and makes the checkpoint (about a minute)")
        with Watch(kube, SELECTOR) as watch:
            watch.until("the first worker", lambda: len(watch.ready()) == 1)
            wait("the checkpoint", lambda: is_true(kube.get("vwp", POOL), "CheckpointReady") or None)
            _storm(kube, watch, images.worker, outcome, count, seed, seconds)
            uids = [gone.uid for gone in watch.gone] + [pod["metadata"]["uid"] for pod in watch.pods.values()]
            say("deleting the pool")
            kube.delete("vwp", POOL)
            watch.until("the pods to be gone", lambda: not watch.pods)
            _look_back(watch, uids, outcome)
    return outcome


def _storm(kube: Kube, watch: Watch, image: str, outcome: Outcome, count: int, seed: int, seconds: float) -> None:
    draw = random.Random(seed)
    began = time.monotonic()
    _scale(kube, HIGH)
    watch.until(f"{HIGH} workers", lambda: len(watch.ready()) == HIGH)
    service = kube.get("service", POOL)
    assert service is not None
    clients = Clients(f"http://{service['spec']['clusterIP']}:8000", outcome)
    try:
        for number in range(1, count + 1):
            if time.monotonic() - began > seconds:
                say(f"the time is over after {number - 1} of {count}")
                break
            if number % ROLL_EVERY == 0:
                _roll(kube, watch, image, number)
                outcome.rolls += 1
            else:
                _down_and_up(kube, watch, draw.randint(LOW, HIGH - 1))
                outcome.scale_downs += 1
            outcome.seconds = time.monotonic() - began
            if number % 5 == 0:
                say(f"  {number} of {count}: {len(watch.gone)} workers gone, {outcome.whole} streams whole, "
                    f"{len(outcome.lost)} lost, {sum(outcome.refused.values())} refused")  # fmt: skip
    except KeyboardInterrupt:
        say("interrupted: what was seen so far")
    finally:
        clients.stop()
    outcome.seconds = time.monotonic() - began


def _down_and_up(kube: Kube, watch: Watch, low: int) -> None:
    """The pods that go drain while their successors thaw."""
    _scale(kube, low)
    watch.until(f"{low} workers that stay", lambda: len(watch.staying()) == low)
    _scale(kube, HIGH)
    watch.until(f"{HIGH} workers", lambda: len(watch.ready()) == HIGH)


def _roll(kube: Kube, watch: Watch, image: str, turn: int) -> None:
    """A change of the pods that leaves the checkpoint's identity as it is: an annotation."""
    kube.apply(pool(image, replicas=HIGH, turn=turn))

    def rolled() -> bool:
        new = [pod for pod in watch.ready() if pod["metadata"]["annotations"].get("storm.vernal.dev/turn") == str(turn)]
        return len(new) == HIGH and len(watch.staying()) == HIGH

    watch.until(f"roll {turn}", rolled)


def _scale(kube: Kube, replicas: int) -> None:
    kube.run("scale", f"vwp/{POOL}", f"--replicas={replicas}")


def _look_back(watch: Watch, uids: list[str], outcome: Outcome) -> None:
    """How the workers went, and what of them is still on the node."""
    outcome.workers_gone = len(watch.gone)
    outcome.longest = max((gone.seconds for gone in watch.gone), default=0.0)
    for gone in watch.gone:
        outcome.exit_codes["unseen" if gone.exit_code is None else str(gone.exit_code)] += 1
    say("looking for what is left on the node")
    deadline = time.monotonic() + GUARD_SECONDS  # the kubelet tidies up now and then
    while True:
        outcome.orphans, outcome.leaked = _processes(uids), _places(uids)
        if not (outcome.orphans or outcome.leaked) or time.monotonic() > deadline:
            return
        time.sleep(2)


def _processes(uids: list[str]) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            groups = (entry / "cgroup").read_text()
            if any(uid in groups for uid in uids):
                found.append(f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()[:120]}")
        except OSError:
            continue
    return found


def _places(uids: list[str]) -> list[str]:
    mounts = Path("/proc/self/mountinfo").read_text()
    directories = State(state_dir()).kubelet / "pods"
    return [f"mount of {uid}" for uid in uids if uid in mounts] + [
        str(directories / uid) for uid in uids if (directories / uid).exists()
    ]


def pool(image: str, replicas: int, turn: int) -> dict[str, Any]:
    manifest = manifests.pool(image, replicas)
    spec = manifest["spec"]
    spec["drain"] = {"propagationSeconds": PROPAGATION, "timeoutSeconds": DRAIN}
    spec["terminationGracePeriodSeconds"] = GRACE
    spec["checkpoint"] |= {"verify": "Sizes"}  # the storm is about the end; the start shall be quick on two cores
    spec["podTemplate"] = {"metadata": {"annotations": {"storm.vernal.dev/turn": str(turn)}}}
    return manifest
