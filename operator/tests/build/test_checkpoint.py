"""Names of checkpoints, and the job that removes one."""

from vernal_contract import names
from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.storage import Storage
from vernal_operator.build.checkpoint import checkpoint_name, janitor_job
from vernal_operator.build.meta import checkpoint_owner
from vernal_worker.arguments import parser


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
    assert parser().parse_args(found["args"]).user == "ns/store/x"
    assert found["volumeMounts"] == [{"name": "store", "mountPath": names.PATH_STORE, "subPath": "x"}]
    assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False and pod["imagePullSecrets"] == [{"name": "pull"}]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert names.LABEL_POOL not in labels, "an autoscaler would take it for a replica"
    assert job["metadata"]["ownerReferences"][0]["kind"] == "VLLMCheckpoint"


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
