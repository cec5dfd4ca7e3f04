"""What the demo with a bucket applies is a pool that needs no claim, and is one that the operator takes."""

import json
from typing import Any

import pytest
from scenarios import __main__ as scenarios
from scenarios import buckets, manifests
from scenarios.buckets import Bucket
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.meta import pool_owner
from vernal_operator.build.pod import worker_pod

KEYS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "not-to-be-seen"}
BUCKET = Bucket("s3://vernal-demo-s3", "http://10.255.0.1:7070", "us-east-1", KEYS)


def pod() -> dict[str, Any]:
    spec = VLLMWorkerPoolSpec.model_validate(manifests.bucket_pool("vernal:1", 1, BUCKET)["spec"])
    made: dict[str, Any] = worker_pod(pool_owner("tiny", "demo", "uid"), spec, "1", 0)["spec"]
    return made


def test_its_pods_mount_no_claim_and_have_the_model_where_the_engine_looks() -> None:
    made = pod()
    assert not [volume for volume in made["volumes"] if "persistentVolumeClaim" in volume]
    (worker,) = (each for each in made["containers"] if each["name"] == "worker")
    mounted = {mount["name"]: mount["mountPath"] for mount in worker["volumeMounts"]}
    told = json.loads(next(each["value"] for each in worker["env"] if each["name"] == "VERNAL_CONFIG"))
    assert told["model"]["path"] == mounted["model"] == made["initContainers"][0]["command"][-1]


def test_credentials_are_in_the_secret_alone() -> None:
    assert manifests.secret(BUCKET)["stringData"] == KEYS
    for each in (manifests.bucket_pool("vernal:1", 1, BUCKET), manifests.beside_bucket("vernal:1", BUCKET), pod()):
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in json.dumps(each)


def test_of_another_cluster_the_environment_names_the_bucket(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*buckets.KEYS, "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VERNAL_BUCKET", "s3://models/")
    with pytest.raises(SystemExit):
        buckets.of_environment("demo")
    assert "AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    assert buckets.of_environment("demo") == Bucket("s3://models/demo", None, None, KEYS)
    made = manifests.bucket_pool("vernal:1", 1, buckets.of_environment("demo"))
    assert made["spec"]["checkpoint"]["storage"]["objectStore"] == {
        "url": "s3://models/demo", "credentialsSecret": {"name": manifests.SECRET}
    }  # fmt: skip


def test_only_the_demo_has_a_bucket(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["scenarios", "rolls", "--store", "s3"])
    with pytest.raises(SystemExit, match="2"):
        scenarios.main()
    assert "rolls is for claims only" in capsys.readouterr().err
