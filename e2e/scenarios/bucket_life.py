"""The life of a pool whose checkpoints are in a bucket, with no claim at all; and how the bucket gets its space back.

Runs on any cluster on which Vernal is installed and whose pods reach the bucket.
"""

import json

from common.progress import show

from scenarios import manifests
from scenarios.buckets import Bucket
from scenarios.kube import Kube, Object, is_true, wait
from scenarios.lifecycle import Lifecycle, Worker
from scenarios.report import Report

PYTHON = "/opt/vernal/venv/bin/python"
_NOW = "collect-now"

# These two run in a pod beside the pool's, which has the worker image and the credentials.
_COUNT = """
import json, sys
from vernal_worker.bucket import keys
from vernal_worker.bucket.objects import Objects
found = Objects(sys.argv[1]).list("", "look")
named = [keys.read(each.key) for each in found]
print(json.dumps({
    "current": sum(each is not None and each.current for each in named),
    "pieces": sum(keys.read_piece(each.key) is not None for each in found),
    "bytes": sum(each.size for each in found),
}))
"""
_FLIP_ONE_BIT = """
import sys
from vernal_worker.bucket import keys
from vernal_worker.bucket.objects import Objects
objects = Objects(sys.argv[1])
victim = max(objects.list(keys.PIECES, "look"), key=lambda found: found.size)
data = bytearray(objects.get(victim.key, "look").data)
data[len(data) // 2] ^= 1
objects.put(victim.key, data, "flip")
print(victim.key)
"""


class BucketLife(Lifecycle):
    steps = 6

    def __init__(self, kube: Kube, base: str, image: str, bucket: Bucket) -> None:
        super().__init__(kube, base, image)
        self.bucket = bucket

    def run(self) -> Report:
        self.kube.apply(manifests.beside_bucket(self.image, self.bucket))
        wait("the pod beside the pool", lambda: is_true(self.kube.get("pod", manifests.BESIDE), "Ready"))
        super().run()
        with self.step(6, "the janitor lets go of the checkpoint, and the bucket gets its space back (20 s)"):
            self.space_comes_back()
        return self.report

    # -- steps ---------------------------------------------------------------------------------------------------

    def first_worker_freezes(self) -> Worker:
        worker = super().first_worker_freezes()
        there = self._count()
        outcome = (worker.state.get("freeze") or {}).get("outcome")
        self.report.check(
            f"the first worker's checkpoint is in the bucket ({outcome}; {there['pieces']} pieces, "
            f"{there['bytes'] / 1e6:.0f} MB)",
            outcome == "Published" and there["current"] == 1 and there["pieces"] > 0,
        )
        claims = [claim["metadata"]["name"] for claim in self.kube.list("persistentvolumeclaims")]
        self.report.check(f"no claim was made ({claims or 'none'})", not claims)
        self.report.note(f"the first one's push took {self._seconds(worker, 'push')}")
        return worker

    def autoscaler_adds_two(self) -> list[Worker]:
        new = super().autoscaler_adds_two()
        fetched = [worker for worker in new if "pull" in worker.state.get("timings", {})]
        self.report.check(
            f"they had it from the bucket ({len(fetched)} of {len(new)} pulled)", len(fetched) == len(new) == 2
        )
        pulls = " and ".join(self._seconds(worker, "pull") for worker in new)
        self.report.note(f"of the thawed ones' time the pull was {pulls}")
        return new

    def delete_cleans_up(self) -> None:
        self._collects_while_it_is_used()
        super().delete_cleans_up()
        gone = wait("its bucket's collector to be gone", lambda: not self.kube.list("cronjobs"))
        self.report.check("and the collector of its bucket", gone)

    def _collects_while_it_is_used(self) -> None:
        """What the pool's CronJob does every few hours, now."""
        before = self._count()
        self.kube.run("create", "job", _NOW, f"--from=cronjob/{manifests.POOL}")

        def ended() -> Object | None:
            job = self.kube.get("job", _NOW)
            return job if is_true(job, "Complete") or is_true(job, "Failed") else None

        done = is_true(wait("the pool's collector", ended), "Complete")
        show("\n".join(self.kube.run("logs", f"job/{_NOW}").splitlines()[-3:]))
        same = self._count() == before
        self.report.check(
            f"the pool's collector can read the bucket and takes nothing that is used ({before['pieces']} pieces)",
            done and same and before["pieces"] > 0,
        )

    def space_comes_back(self) -> None:
        """Bytes go two hours after nobody finds them any more. Nobody publishes or thaws here now, so the same command
        may take them at once."""
        wait("the checkpoint to be gone", lambda: not self.kube.list("vllmcheckpoints"))
        before = self._count()
        self.report.check(
            f"the janitor let go of it: nobody finds it any more ({before['current']} current)", not before["current"]
        )
        self._beside("-m", "vernal_worker", "bucket", "gc", self.bucket.url, "--grace", "0")
        after = self._count()
        self.report.check(
            f"`vernal-worker bucket gc` gave back {(before['bytes'] - after['bytes']) / 1e6:.0f} MB; "
            f"{after['pieces']} pieces and {after['bytes'] / 1e3:.0f} kB are left",
            before["pieces"] > 0 and after["pieces"] == 0,
        )

    # -- what is another than with a claim -------------------------------------------------------------------------

    def pool(self) -> Object:
        return manifests.bucket_pool(self.image, 1, self.bucket)

    def flip_one_bit(self, survivor: Worker) -> str:
        return self._beside("-c", _FLIP_ONE_BIT, self.bucket.url).strip()

    def _beside(self, *words: str) -> str:
        return self.kube.run("exec", manifests.BESIDE, "--", PYTHON, *words)

    def _count(self) -> dict[str, int]:
        counted: dict[str, int] = json.loads(self._beside("-c", _COUNT, self.bucket.url))
        return counted

    @staticmethod
    def _seconds(worker: Worker, phase: str) -> str:
        found = worker.state.get("timings", {}).get(phase)
        return "nothing" if found is None else f"{found:.1f} s"
