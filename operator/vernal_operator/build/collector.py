"""The CronJob that collects the bucket of a pool: what nobody finds any more may be deleted hours later only, when the
janitor that let go of it is gone.
"""

import zlib

from vernal_contract import names
from vernal_contract.config import CheckpointPolicy

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.checkpoint import JANITOR_SECONDS, bucket_command, pull_secrets, tidying_pod
from vernal_operator.build.meta import Manifest, Owner, child
from vernal_operator.build.pod import object_store_keys
from vernal_operator.kinds import CRONJOBS

_HOURS = 6


def collector(owner: Owner, spec: VLLMWorkerPoolSpec) -> Manifest | None:
    """None of a pool that names no bucket. Several pools may name the same one, and each collects it: that is safe at
    any time, and nobody needs to know of the others.
    """
    storage = spec.checkpoint.storage
    if spec.checkpoint.policy is CheckpointPolicy.DISABLED or storage is None or storage.object_store is None:
        return None
    work = {"args": bucket_command("gc", storage.object_store), "env": object_store_keys(storage.object_store)}
    labels = {names.LABEL_COMPONENT: names.COMPONENT_COLLECTOR}
    minute = zlib.crc32(f"{owner.namespace}/{owner.name}".encode()) % 60  # not all at once
    return child(owner, CRONJOBS, {
        "schedule": f"{minute} */{_HOURS} * * *",
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 1,
        "jobTemplate": {
            "metadata": {"labels": labels},
            "spec": {
                "backoffLimit": 0,  # the next one comes by itself
                "activeDeadlineSeconds": JANITOR_SECONDS,
                "template": {
                    "metadata": {"labels": labels},
                    "spec": tidying_pod("collector", spec.image, pull_secrets(spec), work),
                },
            },
        },
    })  # fmt: skip
