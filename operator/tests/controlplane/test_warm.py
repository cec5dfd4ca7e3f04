"""On which nodes a checkpoint is warm, by what real statuses of an API server show of it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from controlplane.cases import Case, Server, pool
from controlplane.chart import install, rendered, token
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport, WorkerState
from vernal_operator.client import ApiError
from vernal_operator.kinds import CHECKPOINTS, NODES

pytestmark = pytest.mark.apiserver


@pytest.fixture
def node(server: Server) -> Iterator[Callable[[], None]]:
    """The Node on which all pods are; the function deletes it."""
    manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}}
    uid = server.client.create(NODES, "", manifest)["metadata"]["uid"]

    def delete() -> None:
        try:
            server.client.delete(NODES, "", "node", uid)
        except ApiError as error:
            if not error.not_found:
                raise

    yield delete
    delete()


def test_a_node_is_warm_until_others_take_the_room_or_it_is_gone(
    server: Server, make_case: Callable[..., Case], node: Callable[[], None]
) -> None:
    """With the chart's role for it, and one write for each change."""
    case = make_case("--node-cache=/var/lib/vernal-cache", "--node-cache-size=1Gi", all_namespaces=True)
    install(server.client, rendered(server.helm, "cached", "nodeCache.directory=/c", "crds.install=false"))
    case.use(token(server.client, "cached-vernal"))
    began = time.time()
    says = {
        "pool": NodeCacheReport(tier="disk", lookup=CacheLookup.MISS, fill=CacheFill.FILLED, told_at=began),
        "other": NodeCacheReport(tier="disk", fill=CacheFill.FILLED, evicted_bytes=9, told_at=began + 1),
    }

    def tell(state: WorkerState) -> WorkerState:
        return msgspec.structs.replace(state, node_cache=says[state.pool]) if state.ready else state

    for name in says:
        server.node.lies[case.namespace, name] = tell
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    case.wait("the node to be warm", lambda: warm(case) == {None: (1, [("node", True, "Filled")])})
    case.create(pool(replicas=1, engineArgs={"seed": 9}) | {"metadata": {"name": "other"}})
    evicted, filled = (0, [("node", False, "Evicted")]), (1, [("node", True, "Filled")])
    case.wait("another's files to have its room", lambda: warm(case) == {None: evicted, 9: filled})
    case.assert_quiet(3)
    writes = [
        call for call in case.proxy.writes() if "/vllmcheckpoints/" in call.path and call.path.endswith("/status")
    ]
    written = [call.body["status"] for call in writes if call.body]
    words = [status["nodes"] for status in written if status.get("nodes")]
    assert len([one for one in words if one[0]["reason"] == "Evicted"]) == 1
    node()
    case.wait("the node not to be counted", lambda: warm(case) == {None: (0, []), 9: (0, [])})
    assert not [str(call) for call in case.proxy.calls if call.status == 403]
    case.invariants.check()


def warm(case: Case) -> dict[Any, tuple[int | None, list[tuple[str, bool, str]]]]:
    """What statuses say, by the engine's seed."""
    out = {}
    for item in case.items(CHECKPOINTS):
        status = item.get("status", {})
        nodes = [(node["name"], node["cached"], node["reason"]) for node in status.get("nodes", [])]
        out[item["spec"]["identityInputs"]["engineArgs"].get("seed")] = (status.get("warmNodes"), nodes)
    return out
