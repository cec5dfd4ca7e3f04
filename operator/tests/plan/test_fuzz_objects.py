"""Whatever the CRDs' schemas admit is planned and built without an exception; what the models refuse is told in one
line that names the field."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import yaml
from fuzz.documents import changed, deep, nested, unfolded, values
from fuzz.limits import bounded
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import NOW, RAW, applied, creator, published, ready, starting
from vernal_operator.api.parse import parse_checkpoint, parse_pool
from vernal_operator.build.meta import pool_owner
from vernal_operator.build.pod import NodeCache, worker_pod
from vernal_operator.observe.views import CHECKPOINTS_READER, POOLS_READER
from vernal_operator.plan import plan, plan_checkpoint
from vernal_operator.plan.model import (
    CheckpointSnapshot,
    CheckpointView,
    NodeCaches,
    NodeView,
    PoolUse,
    Snapshot,
    Waker,
)
from vernal_operator.plan.placing import fits, needs
from vernal_operator.plan.revision import content, restored, revision


def schema_of(kind: str) -> dict[str, Any]:
    """Of the objects of a kind, as the chart installs it."""
    crd = yaml.safe_load((Path(__file__).parents[3] / "crds" / f"vernal.dev_{kind}s.yaml").read_text())
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


MOST = 2**63 - 1
"""The API server keeps whole numbers as int64."""


def admitted(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What this part of a schema lets through, but for the rules in CEL."""
    if schema.get("x-kubernetes-int-or-string"):
        return st.one_of(whole(schema), texts(schema))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string" if schema.get("format") == "date-time":
            return st.sampled_from(MOMENTS)
        case "string":
            return texts(schema)
        case "integer":
            return whole(schema)
        case "number":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(admitted(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(st.sampled_from(FREE) | st.text(max_size=4), values | deep, max_size=3)
    if "additionalProperties" in schema:
        return st.dictionaries(st.text(max_size=5), admitted(schema["additionalProperties"]), max_size=2)
    fields = schema.get("properties", {})
    required = set(schema.get("required", ())) - {name for name, inner in fields.items() if "default" in inner}
    inner = {name: admitted(value) for name, value in fields.items()}
    return st.fixed_dictionaries(
        {name: found for name, found in inner.items() if name in required},
        optional={name: found for name, found in inner.items() if name not in required},
    )


FREE = ("containers", "initContainers", "volumes", "env", "imagePullSecrets", "name", "max_model_len", "architecture")


def whole(schema: dict[str, Any]) -> st.SearchStrategy[int]:
    low, high = schema.get("minimum", -MOST - 1), schema.get("maximum", MOST)
    edges = [edge for edge in (low, low + 1, high, 2**31, 2**53) if low <= edge <= high]
    return st.integers(low, min(high, low + 100)) | st.sampled_from(edges) | st.integers(low, high)


def texts(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    low, high = schema.get("minLength", 0), schema.get("maxLength", 5000)
    if "pattern" in schema:
        matching = st.from_regex(re.compile(schema["pattern"].replace("$", r"\Z"), re.ASCII))
        return matching | st.sampled_from(QUANTITIES).filter(re.compile(schema["pattern"]).search)
    ordinary = st.text(st.characters(exclude_categories=["Cs"]), min_size=low, max_size=min(high, low + 20))
    long = st.just("x" * high)
    return ordinary | st.sampled_from(WORDS).filter(lambda word: low <= len(word) <= high) | long


QUANTITIES = ("0", "1e99", "1e999999999", "9" * 400, "1E", "1.e.5", ".5Ki", "5.", "1e-999999999", "100000%", "0%")
MOMENTS = (
    "2026-11-25T00:00:00Z", "2026-11-25t00:00:00z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z",
    "0000-01-01T00:00:00Z", "2026-11-25T00:00:00+99:99", "2027-01-15T08:00:00-12:00", "2026-02-29T00:00:00Z",
)  # fmt: skip
"""What Kubernetes' check of date-time lets through."""
WORDS = ("a", "kv_consumer", "\0", "r", "0", "1e3")
POOL, CHECKPOINT = schema_of("vllmworkerpool"), schema_of("vllmcheckpoint")
pools = admitted(POOL["spec"]).map(lambda spec: RAW | spec)
"""With what the shortest pool has, so that most are not refused for want of it."""
some = pools | pools.map(lambda spec: {name: spec[name] for name in list(spec)[:4]} | RAW)


def stored(value: Any) -> Any:
    """As the API server has it: no halves of surrogate pairs, and of numbers int64 and float64."""
    if isinstance(value, dict):
        return {stored(name): stored(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [stored(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int) and not isinstance(value, bool) and not -MOST - 1 <= value <= MOST:
        return float(value)
    return value


def assert_told(message: str) -> None:
    assert message.startswith("spec") and "\n" not in message and len(message) < 20_000, message[:300]


@PROFILE
@given(some, admitted(POOL["status"]), st.sampled_from(["", "r1", "\u00e9"]), st.booleans())
def test_an_admitted_pool_is_planned(spec: Any, status: Any, renew: str, twice: bool) -> None:
    with bounded():
        obj = {
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "1", "generation": 2,
                         "annotations": {"vernal.dev/renew-checkpoint": renew}},
            "spec": spec, "status": status,
        }  # fmt: skip
        entry = POOLS_READER.convert(unfolded(stored(obj)))
        assert entry is not None
        pool = entry.view
        if pool.spec is None:
            assert_told(pool.spec_error)
            decided(plan(Snapshot(now=NOW, pool=pool)))
            return
        wanted = needs(worker_pod(pool_owner("p", "ns", "u"), pool.spec, "r", 0)["spec"])
        assert wanted is None or fits(wanted, NodeView(name="n")) in (True, False)
        first = Snapshot(now=NOW, pool=pool, waker=Waker(("10.0.0.1",), 8000))
        made = plan(first)
        decided(made)
        rev = revision(pool.spec)
        pods = (starting(0, revision=rev), ready(1, revision=rev, worker=creator("p-1")))
        later = Snapshot(
            now=NOW + 5,
            pool=pool,
            pods=pods,
            revisions=tuple(applied(one) for one in made.apply if one["kind"] == "ControllerRevision"),
        )
        second = plan(later)
        decided(second)
        if twice and second.create_checkpoints:
            view = published(second.create_checkpoints[0])
            decided(plan(Snapshot(now=NOW + 9, pool=pool, pods=pods, checkpoints=(view,))))
        again = restored(content(pool.spec), pool.spec)
        assert again is not None and content(again) == content(pool.spec)


def decided(decisions: Any) -> None:
    """It can be sent to the API server, and slept on."""
    for manifest in (
        *decisions.create,
        *getattr(decisions, "create_checkpoints", ()),
        *getattr(decisions, "apply", ()),
    ):
        assert len(msgspec.json.encode(manifest)) < 1 << 20
    if decisions.status is not None:
        assert len(json.dumps(decisions.status)) < 1 << 18
    assert decisions.requeue_after is None or 0 < decisions.requeue_after < float("inf")


@PROFILE
@given(
    admitted(CHECKPOINT["spec"]),
    admitted(CHECKPOINT["status"]),
    st.booleans(),
    st.lists(st.builds(PoolUse, name=st.just("p"), restore_attempts=st.just(3), retain=st.booleans(),
                       unused_seconds=whole({"minimum": 0}), max_unused=st.none() | whole({"minimum": 0})), max_size=1),
)  # fmt: skip
def test_an_admitted_checkpoint_is_planned(spec: Any, status: Any, going: bool, users: list[PoolUse]) -> None:
    with bounded():
        meta = {"name": "c", "namespace": "ns", "uid": "k", "resourceVersion": "1", "generation": 1,
                "creationTimestamp": "2026-11-25T00:00:00Z", "finalizers": ["vernal.dev/artifact-files"]}  # fmt: skip
        meta |= {"deletionTimestamp": "2026-11-25T00:00:00Z"} if going else {}
        entry = CHECKPOINTS_READER.convert(unfolded(stored({"metadata": meta, "spec": spec, "status": status})))
        if entry is None:
            assert_told(parse_checkpoint({"spec": unfolded(spec)})[1])
            return
        view: CheckpointView = entry.view
        decided(plan_checkpoint(CheckpointSnapshot(now=NOW, checkpoint=view, users=tuple(users))))
        spec_, _ = parse_pool({"spec": RAW})
        assert spec_ is not None
        making = tuple(replace(one, makes=True, spec=spec_) for one in users)
        caches = NodeCaches(cache=NodeCache("/c", 1, 2, 1), machines=(NodeView(name="n"), NodeView(name="a")))
        with_caches = CheckpointSnapshot(now=NOW, checkpoint=view, users=making, caches=caches)
        decided(plan_checkpoint(with_caches))
        pool = POOLS_READER.convert({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": RAW}).view
        decided(plan(Snapshot(now=NOW, pool=pool, pods=(ready(0, revision=revision(spec_)),), checkpoints=(view,))))


GOOD: dict[str, Any] = RAW | {
    "engineArgs": {"max_model_len": 4096, "list": [{"a": 1}]},
    "env": [{"name": "A", "value": "b"}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    "resources": {"limits": {"nvidia.com/gpu": 1}, "claims": [{"name": "gpu"}]},
    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}],
    "rollout": {"maxSurge": "25%", "progressDeadlineSeconds": 600},
    "autoscaling": {"minReplicas": 0, "maxReplicas": 4, "idleSeconds": 60, "metrics": [{"type": "Pods"}]},
    "kvTransfer": {"storage": {"claimName": "kv"}, "sizeLimit": "5Gi", "options": {"a": {"b": 1}}},
    "podTemplate": {
        "metadata": {"labels": {"a": "b"}},
        "spec": {
            "nodeSelector": {"gpu": "h100"},
            "imagePullSecrets": [{"name": "r"}],
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a"]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [
                {
                    "name": "worker",
                    "env": [{"name": "B", "value": "c"}],
                    "ports": [{"containerPort": 9000}],
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                    "resources": {"claims": [{"name": "gpu"}]},
                },
                {"name": "side", "image": "i"},
            ],
        },
    },
}


@PROFILE
@given(changed(GOOD))
def test_a_changed_pool_is_planned_or_refused_by_the_field_s_name(spec: Any) -> None:
    """Also what the API server would not have let in: what is stored may be older than the schema."""
    with bounded():
        spec = unfolded(stored(spec))
        parsed, message = parse_pool({"spec": spec})
        if parsed is None:
            assert_told(message)
            return
        pool = POOLS_READER.convert({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}).view
        decided(plan(Snapshot(now=NOW, pool=pool)))
        rev = revision(parsed)
        decided(plan(Snapshot(now=NOW, pool=pool, pods=(ready(0, revision=rev, worker=creator("p-0")),))))


def test_the_good_one_is_good() -> None:
    assert parse_pool({"spec": GOOD})[1] == ""
    assert nested(3) == [[[]]]
