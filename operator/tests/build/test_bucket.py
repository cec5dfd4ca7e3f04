"""Checkpoints in a bucket: what workers, janitors and collectors are told of it."""

import re
from typing import Any

import pytest
from build.factory import BUCKET, OWNER, RAW, build, container, env, spec
from vernal_contract import config, names
from vernal_contract.variables import shapes
from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.crd import MAX_NAME
from vernal_operator.api.parse import parse_pool
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.api.storage import Storage
from vernal_operator.build.checkpoint import checkpoint, checkpoint_name, janitor_job
from vernal_operator.build.children import children
from vernal_operator.build.collector import collector
from vernal_operator.build.meta import checkpoint_owner, pool_owner
from vernal_operator.build.pod import startup_seconds
from vernal_worker.arguments import parser

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def test_a_pool_with_a_bucket_has_no_claim_and_its_worker_knows_of_it() -> None:
    pod = build(checkpoint={"storage": {"objectStore": BUCKET | {"sizeLimit": "60Gi"}}})
    assert {"name": "store", "emptyDir": {"sizeLimit": "60Gi"}} in pod["spec"]["volumes"]
    assert {"name": "store", "mountPath": names.PATH_STORE} in container(pod)["volumeMounts"]
    assert [v["name"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v] == ["model"]
    plain = build(checkpoint={"storage": {"objectStore": BUCKET}})
    assert {"name": "store", "emptyDir": {}} in plain["spec"]["volumes"]
    told = config.decode(env(pod)[names.ENV_CONFIG]["value"])
    wanted = config.ObjectStoreConfig(url="s3://models/vernal", endpoint="http://minio:9000", region="r")
    assert told.checkpoint.object_store == wanted
    assert told.checkpoint.user == "ns/s3://models/vernal/http://minio:9000"
    assert told.must_understand == ("checkpoint.objectStore",)
    assert config.decode(env(build())[names.ENV_CONFIG]["value"]).must_understand == ()
    assert startup_seconds(spec(checkpoint={"storage": {"objectStore": BUCKET}})) > startup_seconds(spec())


def test_credentials_of_a_bucket_come_from_its_secret_under_names_that_no_engine_gets() -> None:
    pod = build(checkpoint={"storage": {"objectStore": BUCKET}})
    given = {name: entry for name, entry in env(pod).items() if name.startswith(names.ENV_OBJECT_STORE)}
    assert [name.removeprefix(names.ENV_OBJECT_STORE) for name in given] == list(KEYS)
    for name, entry in given.items():
        source = entry["valueFrom"]["secretKeyRef"]
        assert source["name"] == "bucket" and names.ENV_OBJECT_STORE + source["key"] == name
        assert source.get("optional", False) == name.endswith("AWS_SESSION_TOKEN")
        assert not shapes(name)
    assert config.decode(env(pod)[names.ENV_CONFIG]["value"]).secret_env == (), "the engine is not told"
    disabled = env(build(checkpoint={"policy": "Disabled", "storage": {"objectStore": BUCKET}}))
    assert not [name for name in (*env(build()), *disabled) if name.startswith(names.ENV_OBJECT_STORE)]


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ({}, "exactly one of claimName and objectStore"),
        ({"claimName": "c", "objectStore": BUCKET}, "exactly one of claimName and objectStore"),
        ({"subPath": "p", "objectStore": BUCKET}, "subPath is of a claim"),
        ({"objectStore": {"url": "s3://models"}}, "credentialsSecret"),
        *(
            ({"objectStore": BUCKET | {"url": url}}, "url")
            for url in ("models", "gs://models", "s3://", "s3://m/../x", "s3://k:s@models", "s3://models/")
        ),
        ({"objectStore": BUCKET | {"endpoint": "http://user:password@minio"}}, "endpoint"),
    ],
)
def test_what_is_no_bucket_is_refused(storage: dict[str, Any], says: str) -> None:
    parsed, error = parse_pool({"spec": RAW | {"checkpoint": {"storage": storage}}})
    assert parsed is None and says in str(error)


def in_bucket(**checkpoint: Any) -> VLLMWorkerPoolSpec:
    template = {"spec": {"imagePullSecrets": [{"name": "pull"}]}}
    return spec(checkpoint={"storage": {"objectStore": BUCKET}} | checkpoint, podTemplate=template)


def test_a_bucket_is_collected_now_and_then_while_a_pool_names_it() -> None:
    (found,) = [child for child in children(OWNER, in_bucket()) if child["kind"] == "CronJob"]
    assert found["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert found["spec"]["concurrencyPolicy"] == "Forbid"
    job = found["spec"]["jobTemplate"]
    pod = job["spec"]["template"]["spec"]
    [collecting] = pod["containers"]
    parsed = parser().parse_args(collecting["args"])
    assert (parsed.command, parsed.action, parsed.dry_run, parsed.grace) == ("bucket", "gc", False, None)
    assert (parsed.url, parsed.endpoint, parsed.region) == ("s3://models/vernal", "http://minio:9000", "r")
    assert pod["imagePullSecrets"] == [{"name": "pull"}] and collecting["image"] == "worker:1"
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert labels == {names.LABEL_COMPONENT: names.COMPONENT_COLLECTOR}, "neither a replica nor the janitor's"


def test_who_collects_a_bucket_has_the_janitor_s_rights_and_no_more() -> None:
    storage = Storage.model_validate({"objectStore": BUCKET})
    wanted = VLLMCheckpointSpec(
        identity="a" * 64,
        host_tuple="b" * 64,
        model="m",
        storage=storage,
        image="worker:1",
        image_pull_secrets=["pull"],
    )
    janitor = janitor_job(checkpoint_owner("vck-1", "ns", "u-2"), wanted)["spec"]["template"]["spec"]
    made = collector(OWNER, in_bucket())
    assert made is not None
    pod = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    own = ("name", "args")
    assert {**pod, "containers": None} == {**janitor, "containers": None}
    assert {name: value for name, value in pod["containers"][0].items() if name not in own} == {
        name: value for name, value in janitor["containers"][0].items() if name not in own
    }


@pytest.mark.parametrize("policy", ["Auto", "Required", "Disabled"])
def test_what_is_no_bucket_needs_no_collector(policy: str) -> None:
    assert collector(OWNER, spec()) is None
    assert (collector(OWNER, in_bucket(policy=policy)) is None) == (policy == "Disabled")


def test_pools_do_not_all_collect_at_the_same_moment() -> None:
    def schedule(pool: str) -> str:
        made = collector(pool_owner(pool, "ns", "u"), in_bucket())
        assert made is not None and len(made["metadata"]["name"]) <= 52, "so long may a CronJob's name be"
        text: str = made["spec"]["schedule"]
        assert re.fullmatch(r"[0-5]?\d \*/6 \* \* \*", text)
        return text

    assert len({schedule(f"pool-{number}") for number in range(60)}) > 20
    schedule("p" * MAX_NAME)


def test_the_janitor_of_a_bucket_has_its_credentials_and_mounts_nothing() -> None:
    storage = Storage.model_validate({"objectStore": BUCKET})
    wanted = VLLMCheckpointSpec(identity="a" * 64, host_tuple="b" * 64, model="m", storage=storage, image="worker:1")
    pod = janitor_job(checkpoint_owner("vck-1", "ns", "u-2"), wanted, [("c" * 64, "d" * 64)])["spec"]["template"][
        "spec"
    ]
    [found] = pod["containers"]
    assert "volumes" not in pod and "volumeMounts" not in found
    parsed = parser().parse_args(found["args"])
    assert (parsed.command, parsed.action, parsed.gc, parsed.dry_run) == ("bucket", "rm", True, False)
    assert (parsed.url, parsed.endpoint, parsed.region) == ("s3://models/vernal", "http://minio:9000", "r")
    user = "ns/s3://models/vernal/http://minio:9000"
    assert (parsed.identity, parsed.host, parsed.user) == ("a" * 64, "b" * 64, user)
    worker = {entry["name"]: entry for entry in found["env"]}
    assert worker == {
        n: e for n, e in env(build(checkpoint={"storage": {"objectStore": BUCKET}})).items() if n in worker
    }
    assert len(worker) == len(KEYS)
    assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_checkpoint_in_a_bucket_is_named_by_where_it_is() -> None:
    """Not by who may read it how: its janitor would remove what the other's pools use."""

    def name(**changes: Any) -> str:
        return checkpoint_name("a" * 64, "b" * 64, Storage.model_validate({"objectStore": BUCKET | changes}))

    assert name() == name(credentialsSecret={"name": "other"}, region="s", sizeLimit="1Gi")
    assert len({name(), name(url="s3://models/other"), name(endpoint="http://other:9000")}) == 3
    spec_ = spec(checkpoint={"storage": {"objectStore": BUCKET | {"sizeLimit": "1Gi"}}})
    storage = spec_.checkpoint.storage
    assert storage is not None
    made = checkpoint(
        "ns", spec_, storage, identity="a" * 64, host_tuple="b" * 64, identity_inputs={"revision": None}, host={}
    )
    assert made["spec"]["storage"] == {"subPath": "", "objectStore": BUCKET}
    assert made["spec"]["identityInputs"] == {"revision": None}
