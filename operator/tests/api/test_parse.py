"""Objects that the API server did not check by today's rules are read, or refused with the field's name."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vernal_operator.api.crd import KINDS, object_schema
from vernal_operator.api.parse import parse_checkpoint, parse_pool

GOOD: dict[str, Any] = {
    "image": "worker:1",
    "model": {"name": "m"},
    "checkpoint": {"storage": {"claimName": "store"}},
}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image": None}, "spec.image"),
    "negative replicas": ({"replicas": -1}, "spec.replicas"),
    "checkpoint without storage": ({"checkpoint": {}}, "spec.checkpoint.storage is required"),
    "required checkpoint without storage": ({"checkpoint": {"policy": "Required"}}, "spec.checkpoint.storage"),
    "drain longer than the grace period": ({"drain": {"timeoutSeconds": 500}}, "spec.terminationGracePeriodSeconds"),
    "no room to exit": ({"terminationGracePeriodSeconds": 104}, "spec.drain.propagationSeconds"),
    "a roll that cannot move": ({"rollout": {"maxSurge": 0, "maxUnavailable": "0%"}}, "spec.rollout.maxSurge"),
    "not a percentage": ({"rollout": {"maxSurge": "many"}}, "spec.rollout.maxSurge"),
    "autoscaling upside down": (
        {"autoscaling": {"minReplicas": 3, "maxReplicas": 2, "metrics": [{"type": "Pods"}]}},
        "spec.autoscaling.minReplicas",
    ),
    "autoscaling by nothing": ({"autoscaling": {"maxReplicas": 2}}, "spec.autoscaling.metrics"),
    "autoscaling by an empty list": ({"autoscaling": {"maxReplicas": 2, "metrics": []}}, "spec.autoscaling.metrics"),
    "a deadline that nobody can meet": (
        {"rollout": {"progressDeadlineSeconds": 60, "minReadySeconds": 60}},
        "spec.rollout.progressDeadlineSeconds",
    ),
    "two sources": (
        {"model": {"name": "m", "source": {"hub": {}, "image": {"path": "/m"}}}},
        "spec.model.source needs exactly one",
    ),
    "no source": ({"model": {"name": "m", "source": {}}}, "spec.model.source needs exactly one"),
    "a value twice": (
        {"env": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        "spec.env[] needs exactly one of value and valueFrom",
    ),
    "no value": ({"env": [{"name": "A"}]}, "spec.env[] needs exactly one of value and valueFrom"),
    "a name of Vernal's": ({"env": [{"name": "VERNAL_CONFIG", "value": "1"}]}, "spec.env[].name"),
    "unknown policy": ({"kvTransfer": {"loadFailurePolicy": "Ignore"}}, "spec.kvTransfer.loadFailurePolicy"),
    "unknown role": ({"kvTransfer": {"role": "prefill"}}, "spec.kvTransfer.role"),
    "relative KV path": ({"kvTransfer": {"path": "kv"}}, "spec.kvTransfer.path must be absolute"),
    "KV path out of the directory": ({"kvTransfer": {"path": "/a/../b"}}, "spec.kvTransfer.path must be absolute"),
    "KV path of the worker's own": ({"kvTransfer": {"path": "/tmp"}}, "spec.kvTransfer.path must be absolute"),
    "KV size limit of a reader": (
        {"kvTransfer": {"role": "kv_consumer", "sizeLimit": "1Gi"}},
        "spec.kvTransfer.sizeLimit does nothing",
    ),
    "KV size limit of another connector": (
        {"kvTransfer": {"connector": "NixlConnector", "sizeLimit": 5}},
        "spec.kvTransfer.sizeLimit is only for the connector",
    ),
    "KV size limit is no quantity": ({"kvTransfer": {"sizeLimit": "much"}}, "spec.kvTransfer.sizeLimit"),
    "KV blocks among checkpoints": (
        {"checkpoint": {"storage": {"claimName": "c"}}, "kvTransfer": {"storage": {"claimName": "c"}}},
        "spec.kvTransfer.storage and spec.checkpoint.storage",
    ),
    "out of the claim": (
        {"checkpoint": {"storage": {"claimName": "c", "subPath": "a/../.."}}},
        "subPath must be relative",
    ),
    "absolute": ({"checkpoint": {"storage": {"claimName": "c", "subPath": "/a"}}}, "subPath must be relative"),
    "host path": (
        {"podTemplate": {"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}}},
        "spec.podTemplate.spec.volumes[x].hostPath",
    ),
    "host network": ({"podTemplate": {"spec": {"hostNetwork": True}}}, "spec.podTemplate.spec.hostNetwork"),
    "a token": (
        {"podTemplate": {"spec": {"automountServiceAccountToken": True}}},
        "spec.podTemplate.spec.automountServiceAccountToken",
    ),
    "privileged": (
        {"podTemplate": {"spec": {"containers": [{"name": "worker", "securityContext": {"privileged": True}}]}}},
        "spec.podTemplate.spec.containers[worker].securityContext.privileged",
    ),
    "capabilities in an init container": (
        {
            "podTemplate": {
                "spec": {
                    "initContainers": [{"name": "i", "securityContext": {"capabilities": {"add": ["SYS_MODULE"]}}}]
                }
            }
        },
        "spec.podTemplate.spec.initContainers[i].securityContext.capabilities.add",
    ),
    "grace period in the overlay": (
        {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 5}}},
        "set spec.terminationGracePeriodSeconds instead",
    ),
    "VERNAL_CONFIG in the overlay": (
        {
            "podTemplate": {
                "spec": {"containers": [{"name": "worker", "env": [{"name": "VERNAL_CONFIG", "value": "{}"}]}]}
            }
        },
        "spec.podTemplate.spec.containers[worker].env[VERNAL_CONFIG]",
    ),
    "a container without a name": ({"podTemplate": {"spec": {"containers": [{}]}}}, "spec.podTemplate.spec.containers"),
    "a label of Vernal's": ({"podTemplate": {"metadata": {"labels": {"vernal.dev/pool": "x"}}}}, "vernal.dev/pool"),
}


def test_a_minimal_pool_and_what_it_defaults_to() -> None:
    spec, error = parse_pool({"spec": GOOD})
    assert spec is not None and not error
    assert spec.replicas == 1 and spec.model.source.hub is not None and spec.drain.timeout_seconds == 90
    assert spec.rollout.max_surge == 1 and spec.rollout.max_unavailable == 0


@pytest.mark.parametrize("name", BAD)
def test_bad_pools_name_the_field(name: str) -> None:
    fields, message = BAD[name]
    spec, error = parse_pool({"spec": GOOD | fields})
    assert spec is None and message in error, error


@pytest.mark.parametrize("raw", [{}, {"spec": None}, {"spec": []}, {"spec": {"model": "m"}}])
def test_what_is_no_pool_at_all(raw: dict[str, Any]) -> None:
    spec, error = parse_pool(raw)
    assert spec is None and error.startswith("spec")


def test_fields_of_a_newer_release_are_passed_over() -> None:
    spec, error = parse_pool({"spec": GOOD | {"invented": 1, "drain": {"invented": 2}}})
    assert spec is not None and not error


def test_disabled_needs_no_storage() -> None:
    assert parse_pool({"spec": GOOD | {"checkpoint": {"policy": "Disabled"}}})[0] is not None


def test_a_checkpoint() -> None:
    fields = {"identity": "a" * 64, "hostTuple": "b" * 64, "model": "m", "image": "i", "storage": {"claimName": "c"}}
    assert parse_checkpoint({"spec": fields})[0] is not None
    assert parse_checkpoint({"spec": fields | {"identity": "short"}})[1].startswith("spec.identity")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
known = sorted(object_schema(KINDS[0])["properties"]["spec"]["properties"])


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(known), json_values, max_size=4))
def test_nothing_makes_it_raise(fields: dict[str, Any]) -> None:
    spec, error = parse_pool({"spec": GOOD | fields})
    assert (spec is None) == bool(error)


@settings(max_examples=200)
@given(json_values, st.sampled_from(["containers", "initContainers", "volumes", "hostNetwork", "x"]))
def test_no_overlay_makes_it_raise(value: Any, field: str) -> None:
    spec, error = parse_pool({"spec": GOOD | {"podTemplate": {"spec": {field: value}}}})
    assert (spec is None) == bool(error)
