"""What is built keeps the contract with the worker, with Kubernetes and with whoever trusts Vernal with a node."""

from pathlib import Path

import pytest
from build.factory import RAW, build, container, env, spec
from vernal_contract import config, names
from vernal_operator.api.parse import parse_pool
from vernal_operator.build.meta import pod_labels
from vernal_operator.build.pod import CAPABILITIES, startup_seconds
from vernal_worker.checkpoint import doctor


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


def test_the_drain_token_comes_from_a_secret_and_is_not_in_the_configuration() -> None:
    assert names.ENV_ADMIN_TOKEN not in env(build())
    pod = build(drain={"tokenSecret": {"name": "s", "key": "k"}})
    source = env(pod)[names.ENV_ADMIN_TOKEN]["valueFrom"]["secretKeyRef"]
    assert (source["name"], source["key"]) == ("s", "k")
    assert config.decode(env(pod)[names.ENV_CONFIG]["value"]).secret_env == (), "the engine is not told"
    assert build(keepAliveSeconds=620) != build(), "a pool's keep-alive reaches its workers"
    assert build(maxBodySize="1Gi") != build(), "and how large bodies may be"
