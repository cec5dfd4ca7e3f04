"""What is built beside a pool's pods is the pool's own, and finds all of them."""

from typing import Any

from build.factory import OWNER, build, spec
from vernal_contract import names
from vernal_operator.build.children import children
from vernal_operator.build.meta import selector


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
