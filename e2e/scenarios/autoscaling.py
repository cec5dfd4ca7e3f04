"""A pool on a real cluster goes to zero, and ten requests at once bring it back: how many are answered, and where the
seconds went. The same pool without checkpoints beside it.

Requests go to the pools' Services, from the machine that is the node: only the embedded cluster has its addresses
there.
"""

import http.client
import re
import threading
import time

from common.progress import step
from patience import GUARD_SECONDS

from scenarios import manifests
from scenarios.client import greedy
from scenarios.kube import Kube, Object, is_true, wait
from scenarios.report import Report

SYSTEM = "vernal-system"
BURST = 10
IDLE_SECONDS = 15
ROUNDS = 3
SERVING_PORT = 8000


class Autoscaling:
    """`run` returns the report."""

    def __init__(self, kube: Kube, image: str) -> None:
        self.kube, self.image = kube, image
        self.report = Report()
        self._system = kube.elsewhere(SYSTEM)

    def run(self) -> Report:
        with step("1/3  one worker starts cold and freezes; nobody needs it, and the pool goes to zero (2 min)"):
            self.kube.apply(_pool(self.image, checkpoint=True))
            wait("the checkpoint", lambda: is_true(self._pool(manifests.POOL), "CheckpointReady"))
            self._asleep(manifests.POOL)
        with step(f"2/3  {BURST} requests at once against zero, {ROUNDS} times (2 min)"):
            thawed = [self._round(manifests.POOL) for _ in range(ROUNDS)]
        with step("3/3  the same pool with policy Disabled, once (2 min)"):
            self.kube.delete("vwp", manifests.POOL)
            self.kube.apply(_pool(self.image, checkpoint=False))
            self._asleep(manifests.POOL)
            cold = self._round(manifests.POOL)
        median = sorted(thawed)[len(thawed) // 2]
        self.report.note(
            f"from zero to the first token: {median:.1f} s (median of {ROUNDS}) with a checkpoint, {cold:.1f} s "
            f"without: {cold / median:.1f} times"
        )
        for line in self._stories():
            self.report.note(line)
        return self.report

    def _round(self, pool: str) -> float:
        """Seconds to the first answer."""
        base = f"http://{self._address(pool)}:{SERVING_PORT}"
        answers: list[tuple[float, str]] = []
        began = time.monotonic()

        def ask() -> None:
            try:
                found = greedy(base, manifests.MODEL_NAME)
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                found = f"LOST: {error!r}"
            answers.append((time.monotonic() - began, found))

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(BURST)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GUARD_SECONDS)
        lost = [text for _, text in answers if text.startswith("LOST")]
        same = len({text for _, text in answers}) == 1
        self.report.check(f"{len(answers) - len(lost)} of {BURST} requests against zero were answered {lost}", not lost)
        self.report.check("and all alike", same and len(answers) == BURST)
        self._asleep(pool)
        return min(seconds for seconds, _ in answers)

    def _asleep(self, pool: str) -> None:
        def asleep() -> bool:
            found = self._pool(pool)
            return found.get("spec", {}).get("replicas") == 0 and not found.get("status", {}).get("replicas")

        wait(f"{pool} to be at zero", asleep)

    def _pool(self, name: str) -> Object:
        return self.kube.get("vwp", name) or {}

    def _address(self, pool: str) -> str:
        found = self.kube.get("service", pool)
        assert found is not None
        return str(found["spec"]["clusterIP"])

    def _stories(self) -> list[str]:
        """Where the seconds went, by the operator's and the wakers' own words."""
        logs = [
            self._system.run("logs", "--selector", f"app.kubernetes.io/name={name}", "--tail=-1")
            for name in ("vernal-operator", "vernal-waker")
        ]
        return re.findall(r"event=(?:start|wake) .*", "\n".join(logs))


def _pool(image: str, *, checkpoint: bool) -> Object:
    pool = manifests.pool(image, replicas=1)
    spec = pool["spec"]
    del spec["replicas"]
    # No metrics server runs on the embedded node; without one an HPA would stay at 1, as it does here anyway.
    spec["autoscaling"] = {"autoscaler": "External", "minReplicas": 0, "idleSeconds": IDLE_SECONDS}
    if not checkpoint:
        spec["checkpoint"] = {"policy": "Disabled"}
    return pool
