"""The cache of a node: who may write it, and who reads it."""

from typing import Any

import pytest
from build.factory import BUCKET, OWNER, build, container, env, spec
from vernal_contract import names
from vernal_contract.variables import shapes
from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.overlay import taken
from vernal_operator.api.references import SecretRef
from vernal_operator.api.storage import ObjectStore, Storage
from vernal_operator.build.meta import checkpoint_owner
from vernal_operator.build.pod import NodeCache, worker_pod
from vernal_operator.build.prefetch import fetch_job
from vernal_worker.arguments import parser

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
    told = parser().parse_args(found["args"])
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
