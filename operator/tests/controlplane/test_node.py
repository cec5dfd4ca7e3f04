"""The kubelet that tests have instead of one."""

import copy

import pytest
from controlplane.cases import CORE, Server
from controlplane.node import _gone
from vernal_operator.client import ApiError
from vernal_operator.kinds import PODS

pytestmark = pytest.mark.apiserver


def test_a_pod_whose_name_another_one_has_by_now_is_gone(server: Server) -> None:
    """Its status is not the other's. The API server calls that invalid, and no conflict, where no version is given."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "again", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "none"}], "serviceAccountName": "again"},
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "again", "namespace": "default"}}
    server.client.create(CORE["ServiceAccount"], "default", account)
    server.client.create(PODS, "default", pod)
    found = server.client.get(PODS, "default", "again")
    before = copy.deepcopy(found)
    found["metadata"]["uid"] = "46062214-1a4a-4dfb-a1c1-ba02e659b729"
    with pytest.raises(ApiError) as caught:
        server.node._status(found, None, ready=True)
    assert _gone(caught.value), caught.value
    assert server.client.get(PODS, "default", "again")["status"] == before["status"]
    server.client.delete(PODS, "default", "again", before["metadata"]["uid"])
