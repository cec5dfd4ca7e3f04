"""What others write beside is no difference; what others change of ours is one."""

import json
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
        return {key(inner): fields(inner) | {".": {}} for inner in value}
    return {}


def key(item: dict[str, Any]) -> str:
    """As the API server names an item of a Service's ports, of an HPA's metrics and of owner references."""
    keys = ("port", "protocol") if "port" in item else ("uid",) if "uid" in item else ("type",)
    return f"k:{json.dumps({name: item[name] for name in keys}, separators=(',', ':'))}"


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


PORT = {"name": "http", "port": 8000, "protocol": "TCP", "targetPort": "http"}
PORTS = fields({"ports": [PORT]})


def test_a_list_that_is_owned_as_a_whole_and_one_by_its_values() -> None:
    assert is_as_applied({"ports": [1, 2]}, {"f:ports": {}})
    assert is_as_applied({"finalizers": ["a", "b"]}, {"f:finalizers": {'v:"a"': {}, 'v:"b"': {}, ".": {}}})
    assert not is_as_applied({"finalizers": ["a", "b"]}, {"f:finalizers": {'v:"a"': {}, 'v:"c"': {}, ".": {}}})


def test_an_item_that_is_owned_by_its_key_is_looked_into() -> None:
    """`kubectl edit` of a targetPort takes one field out of the record, and leaves the item."""
    (name,) = PORTS["f:ports"]
    assert is_as_applied({"ports": [PORT]}, PORTS)
    for lost in ("f:targetPort", "f:name"):
        less = {field: value for field, value in PORTS["f:ports"][name].items() if field != lost}
        assert not is_as_applied({"ports": [PORT]}, {"f:ports": {name: less}}), lost


def test_an_item_of_another_key_is_another() -> None:
    assert not is_as_applied({"ports": [PORT | {"port": 9000}]}, PORTS)
    assert not is_as_applied({"ports": [PORT | {"protocol": "UDP"}]}, PORTS)
    assert not is_as_applied({"ports": [PORT, PORT | {"port": 9000}]}, PORTS)


def test_a_key_that_is_left_out_is_the_api_servers_default() -> None:
    port = {"name": "http", "port": 8000, "targetPort": "http"}
    (name,) = PORTS["f:ports"]
    assert is_as_applied({"ports": [port]}, {"f:ports": {name: fields(port) | {".": {}}}})
