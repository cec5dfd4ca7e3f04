"""A pool's life without faults: what is written, what is seen, and the silence after it."""

import pytest
from controlplane.cases import POOL, Case, condition, pool

from thaw_operator.kinds import AUTOSCALERS, BUDGETS, CHECKPOINTS, PODS, SERVICES

pytestmark = pytest.mark.apiserver


def test_a_pool_comes_up_and_then_nothing_is_called(case: Case) -> None:
    case.invariants.most = 3
    case.start()
    case.create(pool(replicas=2))
    case.wait_settled(2)
    case.assert_quiet(10)
    found = case.get_pool()["status"]
    assert (found["restoredReplicas"], found["coldStartedReplicas"]) == (1, 1)
    assert found["selector"] and len(case.items(CHECKPOINTS)) == 1
    assert {len(case.items(kind)) for kind in (SERVICES, BUDGETS)} == {1}
    assert case.items(SERVICES)[0]["metadata"]["ownerReferences"][0]["uid"] == case.get_pool()["metadata"]["uid"]
    case.invariants.check()
