"""What is built keeps the contract with the worker, with Kubernetes and with whoever trusts Vernal with a node."""

import re
from pathlib import Path
from typing import Any

import pytest
from vernal_contract import config, names
from vernal_contract.variables import shapes
from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.crd import MAX_NAME
from vernal_operator.api.overlay import taken
from vernal_operator.api.parse import parse_pool
from vernal_operator.api.pool import ObjectStore, SecretRef, Storage, VLLMWorkerPoolSpec
from vernal_operator.build.checkpoint import checkpoint, checkpoint_name, janitor_job
from vernal_operator.build.children import children
from vernal_operator.build.collector import collector
from vernal_operator.build.meta import checkpoint_owner, pod_labels, pool_owner, selector
from vernal_operator.build.pod import CAPABILITIES, NodeCache, startup_seconds, worker_pod
from vernal_operator.build.prefetch import fetch_job
from vernal_worker import cli
from vernal_worker.checkpoint import doctor

OWNER = pool_owner("tiny", "ns", "u-1")
RAW: dict[str, Any] = {
    "image": "worker:1",
    "model": {"name": "m", "source": {"claim": {"claimName": "models", "path": "tiny"}}},
    "checkpoint": {"storage": {"claimName": "store", "subPath": "checkpoints"}},
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


def test_the_key_that_checkpoints_are_signed_with_comes_from_its_secret_and_must_be_there() -> None:
    checkpoint = RAW["checkpoint"] | {"signingKey": {"name": "s", "key": "k"}}
    assert env(build(checkpoint=checkpoint))[names.ENV_SIGNING_KEY] == {
        "name": names.ENV_SIGNING_KEY,
        "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
    }
    assert names.ENV_SIGNING_KEY not in env(build())
    parsed, error = parse_pool({"spec": RAW | {"checkpoint": checkpoint | {"verify": "Sizes"}}})
    assert parsed is None and "spec.checkpoint.verify must be Full" in str(error)


def test_names_labels_and_owner() -> None:
    meta = build()["metadata"]
    assert meta["name"] == "tiny-abcdef12-3" and meta["namespace"] == "ns"
    assert meta["labels"] == pod_labels("tiny") | {names.LABEL_REVISION: "abcdef12", names.LABEL_SLOT: "3"}
    [owner] = meta["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("VLLMWorkerPool", "u-1", True)


def test_the_worker_reads_what_the_operator_wrote() -> None:
    pod = build(
        engineArgs={"max_model_len": 2048, "enforce_eager": True},
        env=[
            {"name": "MODE", "value": "x"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        drain={"propagationSeconds": 2, "timeoutSeconds": 60},
        terminationGracePeriodSeconds=90,
        kvTransfer={
            "role": "kv_producer",
            "loadFailurePolicy": "Fail",
            "path": "/kv",
            "sizeLimit": "1Gi",
            "options": {"threads": 4},
        },
    )
    found = config.decode(env(pod)[names.ENV_CONFIG]["value"])
    assert (found.pool, found.namespace, found.revision) == ("tiny", "ns", "abcdef12")
    assert found.model == config.ModelConfig(name="m", path=names.PATH_MODEL)
    assert found.engine_args == {"max_model_len": 2048, "enforce_eager": True}
    assert found.engine_env == {"MODE": "x"} and found.secret_env == ("TOKEN",)
    assert found.drain == config.DrainConfig(propagation_seconds=2, timeout_seconds=60, grace_period_seconds=90)
    assert found.drain.grace_period_seconds == pod["spec"]["terminationGracePeriodSeconds"]
    assert found.checkpoint == config.CheckpointConfig(user="ns/store/checkpoints")
    assert found.kv_transfer == config.KVTransferConfig(
        role="kv_producer", load_failure_policy="fail", path="/kv", max_bytes=1 << 30, options={"threads": 4}
    )
    plain = config.decode(env(build(kvTransfer={}))[names.ENV_CONFIG]["value"]).kv_transfer
    assert plain == config.KVTransferConfig(path=names.PATH_KV) and plain.load_failure_policy == "recompute"


def test_secrets_reach_the_container_and_not_the_configuration() -> None:
    pod = build(env=[{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])
    assert env(pod)["TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert "secretKeyRef" not in env(pod)[names.ENV_CONFIG]["value"]


def test_downward_api() -> None:
    found = env(build())
    for name in (names.ENV_POD_NAME, names.ENV_POD_NAMESPACE, names.ENV_POD_UID, names.ENV_POD_IP, names.ENV_NODE_NAME):
        assert "fieldPath" in found[name]["valueFrom"]["fieldRef"], name


@pytest.mark.parametrize("policy", ["Auto", "Required", "Disabled"])
def test_security(policy: str) -> None:
    pod = build(checkpoint={"policy": policy, "storage": {"claimName": "store"}})
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & pod["spec"].keys()
    assert not [v for v in pod["spec"]["volumes"] if "hostPath" in v]
    context = container(pod)["securityContext"]
    assert "privileged" not in context
    if policy == "Disabled":
        assert context == {}
        assert names.PATH_STORE not in {m["mountPath"] for m in container(pod)["volumeMounts"]}
    else:
        assert set(context["capabilities"]["add"]) == set(CAPABILITIES)
        assert context["seccompProfile"] == {"type": "Unconfined"}


def test_the_worker_gets_every_capability_that_its_doctor_asks_for() -> None:
    assert set(doctor.CAPABILITIES) <= set(CAPABILITIES)


def test_the_page_says_what_each_capability_is_for() -> None:
    page = (Path(__file__).parents[3] / "docs/security.md").read_text()
    assert "\n".join(f"| `{name}` | {why} |" for name, why in CAPABILITIES.items()) in page


def test_the_kv_store_is_mounted_where_the_worker_looks_for_it() -> None:
    pod = build(kvTransfer={"storage": {"claimName": "cache", "subPath": "a"}})
    assert {"name": "kv", "mountPath": names.PATH_KV, "subPath": "a"} in container(pod)["volumeMounts"]
    assert {"name": "kv", "persistentVolumeClaim": {"claimName": "cache"}} in pod["spec"]["volumes"]
    same = build(kvTransfer={"storage": {"claimName": "store", "subPath": "kv"}, "path": "/kv"})
    assert {"name": "store", "mountPath": "/kv", "subPath": "kv"} in container(same)["volumeMounts"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in same["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert len(claims) == len(set(claims))


def test_volumes() -> None:
    pod = build(sharedMemorySize="2Gi")
    volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
    mounts = {m["mountPath"]: m for m in container(pod)["volumeMounts"]}
    assert {m["name"] for m in mounts.values()} == volumes.keys()
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert mounts["/dev/shm"]["name"] == "shm" and {"/tmp", names.PATH_RUN} <= mounts.keys()
    assert volumes["store"]["persistentVolumeClaim"]["claimName"] == "store"
    assert mounts[names.PATH_STORE]["subPath"] == "checkpoints" and "readOnly" not in mounts[names.PATH_STORE]
    assert mounts[names.PATH_MODEL] == {
        "name": "model", "mountPath": names.PATH_MODEL, "readOnly": True, "subPath": "tiny",
    }  # fmt: skip


def test_one_claim_for_store_and_model_is_one_volume() -> None:
    pod = build(model={"name": "m", "source": {"claim": {"claimName": "store", "path": "tiny"}}})
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ["store"]
    mounts = {m["mountPath"]: m for m in container(pod)["volumeMounts"]}
    assert mounts[names.PATH_MODEL] | {"subPath": "tiny", "readOnly": True} == mounts[names.PATH_MODEL]
    assert mounts[names.PATH_MODEL]["name"] == mounts[names.PATH_STORE]["name"]


def test_model_in_the_image_or_from_the_hub() -> None:
    for source, path in (({"image": {"path": "/models/x"}}, "/models/x"), ({"hub": {}}, None)):
        pod = build(model={"name": "m", "source": source})
        assert config.decode(env(pod)[names.ENV_CONFIG]["value"]).model.path == path
        assert "model" not in {v["name"] for v in pod["spec"]["volumes"]}


def test_probes_ask_the_admin_port_and_give_a_start_its_time() -> None:
    found = container(build(startupTimeoutSeconds=300))
    for probe, path in (
        ("startupProbe", "/startupz?wait=0.9"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ):
        assert found[probe]["httpGet"] == {"path": path, "port": names.PORT_NAME_ADMIN}
    assert {p["name"]: p["containerPort"] for p in found["ports"]} == {"http": 8000, "admin": 9100}
    assert found["startupProbe"]["periodSeconds"] == found["readinessProbe"]["periodSeconds"] == 1
    limit = found["startupProbe"]["periodSeconds"] * found["startupProbe"]["failureThreshold"]
    assert limit == startup_seconds(spec(startupTimeoutSeconds=300)) >= 300 + 600 + 120 + config.WARM_UP_MORE_SECONDS
    unwarmed = startup_seconds(spec(startupTimeoutSeconds=300, checkpoint=RAW["checkpoint"] | {"warmUpSeconds": 0}))
    assert limit - unwarmed == 120 + config.WARM_UP_MORE_SECONDS


def test_resources_and_devices() -> None:
    pod = build(
        resources={"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}, "claims": [{"name": "gpu"}]},
        resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
    )
    assert container(pod)["resources"] == {
        "limits": {"nvidia.com/gpu": 1, "memory": "64Gi"},
        "claims": [{"name": "gpu"}],
    }
    assert pod["spec"]["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]


def test_the_overlay_adds_and_never_takes_what_the_worker_needs() -> None:
    pod = build(
        podTemplate={
            "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
            "spec": {
                "nodeSelector": {"gpu": "h200"},
                "tolerations": [{"operator": "Exists"}],
                "containers": [
                    {"name": "worker", "resources": {"limits": {"cpu": 4}}, "env": [{"name": "EXTRA", "value": "1"}]},
                    {"name": "sidecar", "image": "s"},
                ],
                "volumes": [{"name": "cache", "emptyDir": {}}],
            },
        }
    )
    assert pod["metadata"]["labels"]["team"] == "a" and pod["metadata"]["annotations"] == {"note": "b"}
    assert pod["metadata"]["labels"].items() >= pod_labels("tiny").items()
    assert [c["name"] for c in pod["spec"]["containers"]] == ["worker", "sidecar"]
    assert env(pod).keys() == env(build()).keys() | {"EXTRA"}
    assert {v["name"] for v in pod["spec"]["volumes"]} > {v["name"] for v in build()["spec"]["volumes"]}
    assert container(pod)["resources"] == {"limits": {"cpu": 4}} and pod["spec"]["nodeSelector"] == {"gpu": "h200"}


def test_equal_specs_give_equal_pods() -> None:
    assert build(engineArgs={"a": 1, "b": 2}) == build(engineArgs={"b": 2, "a": 1})


def test_children_are_owned_labelled_and_select_all_workers() -> None:
    found = {
        child["kind"]: child
        for child in children(
            OWNER, spec(autoscaling={"minReplicas": 2, "maxReplicas": 5, "metrics": [{"type": "Pods"}]})
        )
    }
    assert set(found) == {"Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    for child in found.values():
        meta = child["metadata"]
        assert meta["name"] == "tiny" and meta["labels"][names.LABEL_POOL] == "tiny"
        assert meta["ownerReferences"][0]["uid"] == "u-1" and meta["annotations"][names.ANNOTATION_SPEC_HASH]
    pod_labels_ = build()["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"].items() <= pod_labels_.items()
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= pod_labels_.items()
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "vernal.dev/v1alpha1", "kind": "VLLMWorkerPool", "name": "tiny"}
    assert dict(part.split("=") for part in selector("tiny").split(",")).items() <= pod_labels_.items()


def test_a_child_has_another_hash_exactly_when_its_spec_is_another() -> None:
    def hashes(**fields: Any) -> dict[str, str]:
        return {
            c["kind"]: c["metadata"]["annotations"][names.ANNOTATION_SPEC_HASH] for c in children(OWNER, spec(**fields))
        }

    assert hashes() == hashes(replicas=4)
    changed = hashes(disruptionBudget={"maxUnavailable": "50%"})
    assert {kind for kind in changed if changed[kind] != hashes()[kind]} == {"PodDisruptionBudget"}


def test_the_janitor_mounts_the_store_and_is_no_worker() -> None:
    wanted = VLLMCheckpointSpec(
        identity="a" * 64,
        host_tuple="b" * 64,
        model="m",
        storage=Storage(claim_name="store", sub_path="x"),
        image="worker:1",
        image_pull_secrets=["pull"],
    )
    job = janitor_job(checkpoint_owner("vck-1", "ns", "u-2"), wanted)
    pod = job["spec"]["template"]["spec"]
    [found] = pod["containers"]
    assert found["args"] == (
        ["gc", "--identity", "a" * 64, "--host", "b" * 64, "--user", "ns/store/x", "--patience", "600"]
    )
    assert "command" not in found
    assert cli._parser().parse_args(found["args"]).user == "ns/store/x"
    assert found["volumeMounts"] == [{"name": "store", "mountPath": names.PATH_STORE, "subPath": "x"}]
    assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False and pod["imagePullSecrets"] == [{"name": "pull"}]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert names.LABEL_POOL not in labels, "an autoscaler would take it for a replica"
    assert job["metadata"]["ownerReferences"][0]["kind"] == "VLLMCheckpoint"


CACHE = NodeCache("/var/lib/vernal-cache", 100 << 30)


@pytest.mark.parametrize("storage", [Storage(claim_name="store", sub_path="x"), "bucket"])
def test_who_fetches_to_a_node_may_write_its_cache_and_read_the_store_and_no_more(storage: Any) -> None:
    bucket = ObjectStore(url="s3://bucket/p", endpoint="http://s3:9000", credentials_secret=SecretRef(name="keys"))
    wanted = VLLMCheckpointSpec(
        identity="a" * 64,
        host_tuple="b" * 64,
        model="m",
        storage=Storage(object_store=bucket) if storage == "bucket" else storage,
        image="worker:1",
    )
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    owner = checkpoint_owner("0123456789ab-01234567", "ns", "u-2")
    job = fetch_job(owner, wanted, "g1", "n" * 253, CACHE, tolerations)
    assert job == fetch_job(owner, wanted, "g1", "n" * 253, CACHE, tolerations)
    names_ = {fetch_job(owner, wanted, g, n, CACHE)["metadata"]["name"] for g in ("g1", "g2") for n in ("a", "b")}
    assert len(names_) == 4 and all(len(name) <= 63 for name in names_)
    pod = job["spec"]["template"]["spec"]
    [found] = pod["containers"]
    told = cli._parser().parse_args(found["args"])
    assert (told.command, told.action, told.generation, told.size) == ("cache", "fill", "g1", 100 << 30)
    assert (told.identity, told.host, told.cache) == ("a" * 64, "b" * 64, None)
    mounts = {mount["name"]: mount for mount in found["volumeMounts"]}
    assert not mounts[names.VOLUME_NODE_CACHE].get("readOnly")
    assert mounts[names.VOLUME_NODE_CACHE]["mountPath"] == names.PATH_NODE_CACHE
    host_path = {"path": "/var/lib/vernal-cache/ns", "type": "DirectoryOrCreate"}
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert volumes[names.VOLUME_NODE_CACHE] == {"hostPath": host_path}
    if storage == "bucket":
        assert (told.bucket, told.endpoint) == ("s3://bucket/p", "http://s3:9000")
        assert volumes["store"] == {"emptyDir": {}}, "which is there for this pod alone"
        assert {e["valueFrom"]["secretKeyRef"]["name"] for e in found["env"]} == {"keys"}
    else:
        assert told.bucket is None and "env" not in found
        assert (mounts["store"]["readOnly"], mounts["store"]["subPath"]) == (True, "x")
    assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert found["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["automountServiceAccountToken"] is False and pod["tolerations"] == tolerations
    [term] = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n" * 253]}]}
    assert names.LABEL_POOL not in job["spec"]["template"]["metadata"]["labels"]
    assert job["spec"]["backoffLimit"] == 0 and job["spec"]["ttlSecondsAfterFinished"] and found["resources"]


def cached(**fields: Any) -> dict[str, Any]:
    return worker_pod(OWNER, spec(**fields), "abcdef12", 3, node_cache=CACHE)


def test_a_node_cache_is_the_namespaces_own_and_cannot_be_written_by_who_does_not_know_of_it() -> None:
    pod = cached()
    (volume,) = [v for v in pod["spec"]["volumes"] if "hostPath" in v]
    assert volume["hostPath"] == {"path": "/var/lib/vernal-cache/ns", "type": "DirectoryOrCreate"}
    (mount,) = [m for m in container(pod)["volumeMounts"] if m["name"] == volume["name"]]
    assert mount == {"name": names.VOLUME_NODE_CACHE, "mountPath": names.PATH_NODE_CACHE, "readOnly": True}
    assert env(pod)[names.ENV_NODE_CACHE]["value"] == str(100 << 30)
    assert not shapes(names.ENV_NODE_CACHE), "no engine gets it, and no identity counts it"
    assert taken(names.PATH_NODE_CACHE), "no pool can mount something there"
    in_bucket = cached(checkpoint={"storage": {"objectStore": BUCKET}})
    assert names.VOLUME_NODE_CACHE in {v["name"] for v in in_bucket["spec"]["volumes"]}


def test_a_node_cache_changes_nothing_else_and_is_not_where_nothing_is_frozen() -> None:
    """Nor what the worker's image must know: one that is older leaves it alone."""
    pod, plain = cached(), build()
    assert env(pod)[names.ENV_CONFIG] == env(plain)[names.ENV_CONFIG]
    pod["spec"]["volumes"].pop()
    container(pod)["volumeMounts"].pop()
    container(pod)["env"].pop()
    assert pod == plain
    for fields in ({"policy": "Disabled", "storage": {"claimName": "store"}}, {"policy": "Disabled"}):
        assert cached(checkpoint=fields) == build(checkpoint=fields)


BUCKET: dict[str, Any] = {
    "url": "s3://models/vernal",
    "endpoint": "http://minio:9000",
    "region": "r",
    "credentialsSecret": {"name": "bucket"},
}
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
    parsed = cli._parser().parse_args(collecting["args"])
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
    parsed = cli._parser().parse_args(found["args"])
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


def test_checkpoint_names_are_dns_labels_and_differ_by_host_and_place() -> None:
    here = Storage(claim_name="store")
    first = checkpoint_name("a" * 64, "b" * 64, here)
    assert len(first) <= 63 - len("-janitor") and first.replace("-", "").isalnum() and first == first.lower()
    others = {
        checkpoint_name("c" * 64, "b" * 64, here),
        checkpoint_name("a" * 64, "c" * 64, here),
        checkpoint_name("a" * 64, "b" * 64, Storage(claim_name="other")),
        checkpoint_name("a" * 64, "b" * 64, Storage(claim_name="store", sub_path="y")),
    }
    assert len(others | {first}) == 5


def test_the_drain_token_comes_from_a_secret_and_is_not_in_the_configuration() -> None:
    assert names.ENV_ADMIN_TOKEN not in env(build())
    pod = build(drain={"tokenSecret": {"name": "s", "key": "k"}})
    source = env(pod)[names.ENV_ADMIN_TOKEN]["valueFrom"]["secretKeyRef"]
    assert (source["name"], source["key"]) == ("s", "k")
    assert config.decode(env(pod)[names.ENV_CONFIG]["value"]).secret_env == (), "the engine is not told"
    assert build(keepAliveSeconds=620) != build(), "a pool's keep-alive reaches its workers"
    assert build(maxBodySize="1Gi") != build(), "and how large bodies may be"
