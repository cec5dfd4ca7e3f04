"""What a rollback changes."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from kubectl_vernal import read
from kubectl_vernal.errors import NotFoundError
from kubectl_vernal.read import World
from kubectl_vernal.views import rollback
from recording import world
from vernal_contract import names
from vernal_operator.plan.revision import _NOT_IN_PODS


def test_what_no_revision_keeps_is_what_the_operator_says() -> None:
    from pydantic.alias_generators import to_camel

    mine = {to_camel(field): inner for field, inner in _NOT_IN_PODS.items()}
    assert mine == rollback._NOT_IN_PODS


def test_a_spec_that_is_the_revision_has_nothing_to_change() -> None:
    found = world()
    one = found.pool("demo", "qwen") or {}
    of_it = replace(found, objects={**found.objects, "controllerrevisions": _revisions(found, "qwen")})
    kept = rollback.choose(of_it, one, one["status"]["updateRevision"])
    assert rollback.changes(one["spec"], rollback.spec_of(one, kept)) == []


def _revisions(found: World, called: str) -> list[dict[str, Any]]:
    return [one for one in found.of("controllerrevisions") if read.labels(one)[names.LABEL_POOL] == called]


def test_nulls_of_the_pod_template_come_back_and_replicas_stay() -> None:
    found = world()
    one = copy.deepcopy(found.pool("demo", "qwen") or {})
    (kept,) = copy.deepcopy(_revisions(found, "qwen"))
    content = json.loads(kept["data"]["spec"])
    content["podTemplate"] = {"spec": {"securityContext": None}}
    content["image"] = "old"
    kept["data"]["spec"] = json.dumps(content)
    one["spec"] |= {"replicas": 7, "rollout": {"paused": True}}
    one["spec"]["checkpoint"]["retention"] = {"policy": "Retain"}
    spec = rollback.spec_of(one, kept)
    assert spec["podTemplate"] == {"spec": {"securityContext": None}}
    assert (spec["image"], spec["replicas"], spec["rollout"]) == ("old", 7, {"paused": True})
    assert spec["checkpoint"]["retention"] == {"policy": "Retain"}
    assert "model" in spec and None not in spec.values()


def test_without_a_name_it_is_what_proved_itself() -> None:
    found = world()
    one = copy.deepcopy(found.pool("demo", "qwen") or {})
    (kept,) = _revisions(found, "qwen")
    there = replace(found, objects={"controllerrevisions": [kept]})
    proven = rollback.called(kept)
    one["status"] |= {"updateRevision": "33333333", "currentRevision": proven}
    assert rollback.choose(there, one, "") is kept
    one["status"]["updateRevision"] = proven
    with pytest.raises(NotFoundError, match=proven):
        rollback.choose(there, one, "")


def test_what_looks_like_a_secret_is_not_shown() -> None:
    have = {"env": [{"name": "HF_TOKEN", "value": "one-secret"}], "image": "a"}
    want = {"env": [{"name": "HF_TOKEN", "value": "another"}], "image": "b"}
    text = "\n".join(rollback.changes(have, want))
    assert 'spec.image: "a" becomes "b"' in text
    assert "one-secret" not in text and "another" not in text
