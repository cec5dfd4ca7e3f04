"""Short ways to build a pool's pod, and to look into it."""

from typing import Any

from vernal_operator.api.parse import parse_pool
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.meta import pool_owner
from vernal_operator.build.pod import worker_pod

OWNER = pool_owner("tiny", "ns", "u-1")
RAW: dict[str, Any] = {
    "image": "worker:1",
    "model": {"name": "m", "source": {"claim": {"claimName": "models", "path": "tiny"}}},
    "checkpoint": {"storage": {"claimName": "store", "subPath": "checkpoints"}},
}
BUCKET: dict[str, Any] = {
    "url": "s3://models/vernal",
    "endpoint": "http://minio:9000",
    "region": "r",
    "credentialsSecret": {"name": "bucket"},
}


def spec(**fields: Any) -> VLLMWorkerPoolSpec:
    parsed, error = parse_pool({"spec": RAW | fields})
    assert parsed is not None, error
    return parsed


def build(**fields: Any) -> dict[str, Any]:
    return worker_pod(OWNER, spec(**fields), "abcdef12", 3)


def container(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod["spec"]["containers"][0]
    return found


def env(pod: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in container(pod)["env"]}
