"""What others write beside is no difference; what others change of ours is one."""

from dataclasses import replace
from typing import Any

import pytest
from plan.factory import creator, ready, snapshot, spec
from plan.test_pool import settle
from plan.test_retention import again, seen, use
from vernal_operator.plan import plan, plan_checkpoint
from vernal_operator.plan.model import ChildKey
from vernal_operator.plan.own import is_as_applied

FOREIGN = {"type": "example.com/Audited", "status": "True", "reason": "Seen", "message": "", "lastTransitionTime": "x"}


def fields(value: Any) -> dict[str, Any]:
    """The record of a field manager that applied this and owns it to the last leaf."""
    if isinstance(value, dict):
        return {f"f:{name}": fields(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return {f"k:{number}": fields(inner) for number, inner in enumerate(value)}
    return {}


def test_a_foreign_condition_of_a_pool_is_left_alone() -> None:
    before, _ = settle(snapshot(spec(), ready()))
    conditions = [FOREIGN, *reversed(before.pool.status["conditions"])]
    status = dict(before.pool.status) | {"conditions": conditions}
    assert not plan(replace(before, pool=replace(before.pool, status=status)))


def test_a_foreign_condition_of_an_invalid_pool_is_left_alone_and_not_adopted() -> None:
    broken = snapshot(spec(), status={"conditions": [FOREIGN]})
    broken = replace(broken, pool=replace(broken.pool, spec=None, spec_error="spec.x: no"))
    told = plan(broken).status
    assert told is not None and [c["type"] for c in told["conditions"]] == ["Degraded"]
    written = told | {"conditions": [FOREIGN, *told["conditions"]]}
    assert plan(replace(broken, pool=replace(broken.pool, status=written))).status is None


def test_a_foreign_condition_of_a_checkpoint_is_left_alone() -> None:
    first = seen(use(creator()))
    done = plan_checkpoint(first)
    settled = again(first, done)
    assert not plan_checkpoint(settled)
    status = dict(settled.checkpoint.status) | {"conditions": [FOREIGN, *settled.checkpoint.status["conditions"]]}
    assert not plan_checkpoint(replace(settled, checkpoint=replace(settled.checkpoint, status=status)))


def test_a_change_of_our_own_condition_is_put_back() -> None:
    before, _ = settle(snapshot(spec(), ready()))
    conditions = [c | {"message": "hacked"} for c in before.pool.status["conditions"]]
    status = dict(before.pool.status) | {"conditions": conditions}
    assert plan(replace(before, pool=replace(before.pool, status=status))).status is not None


@pytest.mark.parametrize("lost", ["f:spec", "f:metadata"])
def test_a_child_that_lost_a_field_is_applied_again(lost: str) -> None:
    before, _ = settle(snapshot(spec(), ready()))
    first = plan(replace(before, children={}))
    owned = {
        ChildKey(c["kind"], c["metadata"]["name"]): {
            "f:metadata": fields({n: c["metadata"][n] for n in ("labels", "annotations", "ownerReferences")}),
            "f:spec": fields(c["spec"]),
        }
        for c in first.apply
    }
    whole = {key: replace(view, owned=owned[key]) for key, view in before.children.items()}
    assert not plan(replace(before, children=whole))
    for key, record in owned.items():
        for name in record[lost]:
            less = record | {lost: {n: v for n, v in record[lost].items() if n != name}}
            (again,) = plan(replace(before, children=whole | {key: replace(whole[key], owned=less)})).apply
            assert again["kind"] == key.kind


def test_a_list_that_is_owned_as_a_whole_and_one_by_its_entries() -> None:
    assert is_as_applied({"ports": [1, 2]}, {"f:ports": {}})
    assert is_as_applied({"ports": [1, 2]}, {"f:ports": {"k:1": {}, "k:2": {}, ".": {}}})
    assert not is_as_applied({"ports": [1, 2]}, {"f:ports": {"k:1": {}, ".": {}}})
