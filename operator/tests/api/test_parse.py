"""Objects that the API server did not check by today's rules are read, or refused with the field's name."""

import os
from pathlib import Path
from typing import Any

import pytest
from api.attempts import ATTEMPTS, table
from fuzz.documents import nested
from hypothesis import given, settings
from hypothesis import strategies as st
from vernal_operator.api import overlay
from vernal_operator.api.crd import KINDS, object_schema
from vernal_operator.api.overlay import POD, Fields
from vernal_operator.api.parse import parse_checkpoint, parse_pool

GOOD: dict[str, Any] = {
    "image": "worker:1",
    "model": {"name": "m"},
    "checkpoint": {"storage": {"claimName": "store"}},
}

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"

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
    "autoscaling without bound": ({"autoscaling": {}}, "spec.autoscaling.maxReplicas"),
    "zero without an end": ({"autoscaling": {"minReplicas": 0, "maxReplicas": 2}}, "spec.autoscaling.idleSeconds"),
    "idle above zero": ({"autoscaling": {"maxReplicas": 2, "idleSeconds": 5}}, "spec.autoscaling.idleSeconds"),
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
    "a quantity that fills any memory": ({"kvTransfer": {"sizeLimit": "1e999999999"}}, "spec.kvTransfer.sizeLimit"),
    "a quantity with a fraction for exponent": ({"kvTransfer": {"sizeLimit": "1e.5"}}, "spec.kvTransfer.sizeLimit"),
    "a quantity of many digits": ({"resources": {"limits": {"cpu": "9" * 5000}}}, "spec.resources.limits.cpu"),
    "for ever, as people write it": (
        {"checkpoint": {"storage": {"claimName": "c"}, "retention": {"unusedSeconds": 10**10}}},
        "spec.checkpoint.retention.unusedSeconds",
    ),
    "KV blocks among checkpoints": (
        {"checkpoint": {"storage": {"claimName": "c"}}, "kvTransfer": {"storage": {"claimName": "c"}}},
        "spec.kvTransfer.storage and spec.checkpoint.storage",
    ),
    "out of the claim": (
        {"checkpoint": {"storage": {"claimName": "c", "subPath": "a/../.."}}},
        "subPath must be relative",
    ),
    "absolute": ({"checkpoint": {"storage": {"claimName": "c", "subPath": "/a"}}}, "subPath must be relative"),
    "a container without a name": (
        {"podTemplate": {"spec": {"containers": [{}]}}},
        "spec.podTemplate.spec.containers[]",
    ),
    **{
        f"the engine argument {name}": ({"engineArgs": {name: value}}, f"spec.engineArgs.{name} cannot be set")
        for name, value in {
            "api_key": "secret",
            "model": "other",
            "port": 9,
            "headless": True,
            "config": "/etc/x.yaml",
        }.items()
    },
    **{
        f"the engine argument {name}": ({"engineArgs": {name: "x"}}, "cannot be set: a key in the arguments would be")
        for name in ("api-key", "apiKey")
    },
    "an engine argument's part by a dotted name": (
        {"engineArgs": {"apiKey.x+": "sesame"}},
        "spec.engineArgs.apiKey.x+ cannot be set",
    ),
    "an engine argument as a whole and by parts": (
        {"engineArgs": {"kvTransferConfig": {}, "kv_transfer_config.kv_connector": "C"}},
        "spec.engineArgs.kv_transfer_config.kv_connector is there twice",
    ),
    "an option in a name": ({"engineArgs": {"seed=1 --port": 1}}, "spec.engineArgs.seed=1 --port is no name"),
    **{name: (one.fields, one.says) for name, one in ATTEMPTS.items() if one.by != "chart"},
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


@pytest.mark.parametrize("levels", [100, 300, 5000])
@pytest.mark.parametrize("field", ["engineArgs", "podTemplate", "kvTransfer", "autoscaling"])
def test_what_is_nested_without_end_is_refused_by_the_field_s_name(field: str, levels: int) -> None:
    """The API server keeps 10,000 levels where a field is free."""
    spec, error = parse_pool({"spec": GOOD | {field: {"x": nested(levels)}}})
    assert spec is None and error == f"spec.{field}: must not be nested deeper than 64 levels"


def test_what_is_told_fits_into_a_condition_and_a_line() -> None:
    """However much is wrong, and whatever names it has."""
    many = [{"name": f"{number}\n{'x' * 5000}"} for number in range(200)]
    spec, error = parse_pool({"spec": GOOD | {"env": many, "podTemplate": {"spec": {"a\0b" * 9999: 1}}}})
    assert spec is None and error.startswith("spec.env[0]") and error.endswith(" more")
    assert len(error) < 20_000 and error.isprintable()  # a condition has room for 32,768


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


def everyday_overlay() -> dict[str, Any]:
    """Each of these is somebody's everyday need."""
    worker = {
        "name": "worker",
        "env": [{"name": "HF_HOME", "value": "/models"}],
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "securityContext": {"readOnlyRootFilesystem": True},
    }
    return {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "topologySpreadConstraints": [],
        "runtimeClassName": "nvidia",
        "priorityClassName": None,
        "imagePullSecrets": [{"name": "r"}],
        "securityContext": {"fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "c", "projected": {"sources": [{"configMap": {"name": "c"}}]}},
        ],
        "containers": [worker, {"name": "proxy", "image": "mesh:1", "args": ["-v"], "readinessProbe": {}}],
        "initContainers": [{"name": "fetch", "image": "fetch:1", "restartPolicy": "Always"}],
    }


def test_what_an_overlay_is_for() -> None:
    spec, error = parse_pool({"spec": GOOD | {"podTemplate": {"spec": everyday_overlay()}}})
    assert spec is not None, error


def test_an_inline_csi_volume_of_a_driver_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the chart, to policy and operator alike: one must not take back what the other let in."""

    def wrong(*drivers: str) -> str:
        volumes = [{"name": f"v{number}", "csi": {"driver": driver}} for number, driver in enumerate(drivers)]
        return parse_pool({"spec": GOOD | {"podTemplate": {"spec": {"volumes": volumes}}}})[1]

    assert "for the driver a.example, b.example: use" in wrong("a.example", "b.example")
    monkeypatch.setattr(overlay, "CSI_DRIVERS", {"a.example"})
    assert wrong("a.example") == ""
    assert "for the driver b.example: use" in wrong("a.example", "b.example")
    for odd in ({"csi": {}}, {"csi": None}, {"csi": "x"}, {"csi": {"driver": ["a.example"]}}):
        parse_pool({"spec": GOOD | {"podTemplate": {"spec": {"volumes": [{"name": "v"} | odd]}}}})


def test_annotations_that_nobody_takes_orders_from() -> None:
    names = (
        "example.com/x",
        "mycdi.k8s.io/x",
        "k8s.io/x",
        "nrify.io/x",
        "prometheus.io/scrape",
        "cdi.k8s.io.example.com/x",
    )
    annotations = dict.fromkeys(names, "x")
    assert parse_pool({"spec": GOOD | {"podTemplate": {"metadata": {"annotations": annotations}}}})[1] == ""


SHAPING = ("VLLM_ATTENTION_BACKEND", "NCCL_DEBUG", "CUDA_LAUNCH_BLOCKING", "HF_HUB_OFFLINE", "TZ")
FREE = ("HF_TOKEN", "VLLM_API_KEY", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_VLLM_X")


@pytest.mark.parametrize("source", ["secretKeyRef", "configMapKeyRef"])
@pytest.mark.parametrize("name", [*SHAPING, *FREE])
def test_what_shapes_the_engine_is_no_value_from_elsewhere(name: str, source: str) -> None:
    """It would get it only after the thaw, when what it shapes is made, and the identity would not have it."""
    entry = {"name": name, "valueFrom": {source: {"name": "n", "key": "k"}}}
    error = parse_pool({"spec": GOOD | {"env": [entry]}})[1]
    assert error.startswith("spec.env[].valueFrom cannot be set for a name that shapes") == (name in SHAPING)
    assert parse_pool({"spec": GOOD | {"env": [{"name": name, "value": "x"}]}})[1] == ""


def test_the_page_has_what_was_tried() -> None:
    text = SECURITY.read_text()
    begin, end = text.index("| way to | attempt |"), text.index("\n\n", text.index("| way to | attempt |")) + 1
    if os.environ.get("VERNAL_WRITE_DOCS"):
        SECURITY.write_text(text[:begin] + table() + text[end:])
    else:
        assert text[begin:end] == table(), "run this test with VERNAL_WRITE_DOCS=1"


def test_the_guide_lists_all_that_an_overlay_may_hold() -> None:
    guide = SECURITY.read_text()

    def names(fields: Fields) -> set[str]:
        below = (names(inner) for inner in fields.fields.values() if inner is not None)
        return set(fields.fields).union(*below)

    known = names(POD) - {"name", "mountPath", "readOnly", "subPath", "subPathExpr", "recursiveReadOnly"}
    known -= {"path", "containerPort", "protocol", "defaultMode", "sources", "capabilities", "drop"}
    assert not [name for name in sorted(known) if f"`{name}`" not in guide]


@settings(max_examples=200)
@given(json_values, st.sampled_from(["containers", "initContainers", "volumes", "hostNetwork", "securityContext", "x"]))
def test_no_overlay_makes_it_raise(value: Any, field: str) -> None:
    spec, error = parse_pool({"spec": GOOD | {"podTemplate": {"spec": {field: value}}}})
    assert (spec is None) == bool(error)
