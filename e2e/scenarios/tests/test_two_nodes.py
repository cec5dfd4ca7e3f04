"""What the scenario over two nodes applies is a pool that the operator takes, and it stops nobody else's nodes."""

from typing import Any

import pytest
from scenarios import __main__ as scenarios
from scenarios import manifests, two_nodes
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.meta import pool_owner
from vernal_operator.build.pod import NodeCache, worker_pod


def test_its_pods_leave_a_lost_node_soon_and_have_the_cache_of_theirs() -> None:
    spec = VLLMWorkerPoolSpec.model_validate(manifests.impatient(manifests.pool("vernal:1", 1))["spec"])
    cache = NodeCache(str(two_nodes.CACHE), 4 << 30)
    made: dict[str, Any] = worker_pod(pool_owner("tiny", "two", "uid"), spec, "1", 0, node_cache=cache)["spec"]
    assert {each["key"]: each["tolerationSeconds"] for each in made["tolerations"]} == {
        "node.kubernetes.io/unreachable": 10,
        "node.kubernetes.io/not-ready": 10,
    }
    paths = [volume["hostPath"]["path"] for volume in made["volumes"] if "hostPath" in volume]
    assert paths == [f"{two_nodes.CACHE}/two"]


@pytest.mark.parametrize("scenario", ["two-nodes", "prefetch"])
def test_another_clusters_nodes_are_left_alone(
    scenario: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/of/another")
    monkeypatch.setattr("sys.argv", ["scenarios", scenario])
    with pytest.raises(SystemExit, match="1"):
        scenarios.main()
    assert "unset KUBECONFIG" in capsys.readouterr().err
