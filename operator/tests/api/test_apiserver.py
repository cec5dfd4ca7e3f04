"""A real API server takes the CRDs, refuses bad pools with the field's name, and takes all that the builders build."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api.test_parse import BAD, GOOD
from cluster import build
from cluster.apiserver import ApiServer
from controlplane.cases import admin
from patience import until
from vernal_contract.wakes import Wake
from vernal_operator.api.autoscaling import AutoscalingSpec
from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.parse import parse_pool
from vernal_operator.build.autoscaler import autoscaler
from vernal_operator.build.checkpoint import checkpoint, janitor_job
from vernal_operator.build.children import children
from vernal_operator.build.meta import checkpoint_owner, pool_owner
from vernal_operator.build.pod import worker_pod
from vernal_operator.build.revision import controller_revision, revision_data
from vernal_operator.build.waker import waker_slice
from vernal_operator.plan.revision import content
from vernal_waker.cluster import _ASLEEP, Cluster
from vernal_waker.routes import PoolName
from vernal_waker.wakes import Wakes

pytestmark = pytest.mark.apiserver
ROOT = Path(__file__).parents[3]
ONLY_THE_OPERATOR_SEES = [name for name, (fields, _) in BAD.items() if "podTemplate" in fields]
# Rules of the API server know names of arguments as they are usually written, and do not take them apart.
ONLY_THE_OPERATOR_SEES += [
    "an engine argument's part by a dotted name",
    "an engine argument as a whole and by parts",
    "an option in a name",
]


class Kubectl:
    def __init__(self, server: ApiServer) -> None:
        self.kubeconfig = server.kubeconfig
        self._command = [server.kubectl, "--kubeconfig", str(server.kubeconfig)]

    def __call__(self, *args: str, stdin: Any = None) -> tuple[int, str]:
        """Exit status, and what it wrote to either stream."""
        text = None if stdin is None else json.dumps(stdin)
        done = subprocess.run([*self._command, *args], input=text, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def good(self, *args: str, stdin: Any = None) -> str:
        status, text = self(*args, stdin=stdin)
        assert status == 0, text
        return text


@pytest.fixture(scope="module", params=[build.NEWEST, build.OLDEST], ids=str)
def kubectl(request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    with ApiServer(release=request.param) as server:
        run = Kubectl(server)
        run.good("apply", "-f", str(ROOT / "crds"))
        run.good("create", "serviceaccount", "default")
        # Not `kubectl wait`, which gives up where a definition has no conditions yet (`conditions: null`).
        until("the kinds to be served", lambda: run("get", "vwp,vck")[0] == 0)
        yield run


def pool(spec: dict[str, Any], name: str = "p") -> dict[str, Any]:
    return {"apiVersion": "vernal.dev/v1alpha1", "kind": "VLLMWorkerPool", "metadata": {"name": name}, "spec": spec}


def without_none(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if value is not None}


@pytest.mark.parametrize("name", [name for name in BAD if name not in ONLY_THE_OPERATOR_SEES])
def test_what_the_models_refuse_the_api_server_refuses_too(kubectl: Kubectl, name: str) -> None:
    """So the rules mean the same in CEL and in Python."""
    fields, message = BAD[name]
    status, text = kubectl("create", "--dry-run=server", "-f", "-", stdin=pool(without_none(GOOD | fields), "bad"))
    field = message.split(" ")[0]
    assert status != 0 and (field in text or field.removeprefix("spec.") in text), text


@pytest.mark.parametrize(
    ("unknown", "field"),
    [
        ({"surprise": 1}, "spec.surprise"),
        ({"drain": {"timeOutSeconds": 9}}, "spec.drain.timeOutSeconds"),
        ({"model": {"name": "m", "source": {"hub": {"x": 1}}}}, "spec.model.source.hub.x"),
    ],
)
def test_unknown_fields_are_refused(kubectl: Kubectl, unknown: dict[str, Any], field: str) -> None:
    status, text = kubectl("create", "--dry-run=server", "-f", "-", stdin=pool(GOOD | unknown, "bad"))
    assert status != 0 and f'unknown field "{field}"' in text, text


@pytest.mark.parametrize("name", ["9lives", "x" * 49, "a.b"])
def test_names_that_pods_could_not_have(kubectl: Kubectl, name: str) -> None:
    status, text = kubectl("create", "--dry-run=server", "-f", "-", stdin=pool(GOOD, name))
    assert status != 0 and "metadata.name" in text, text


def test_defaults_are_those_of_the_models(kubectl: Kubectl) -> None:
    stored = json.loads(kubectl.good("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=pool(GOOD)))
    assert parse_pool(stored) == parse_pool({"spec": GOOD})
    assert stored["spec"]["replicas"] == 1
    assert stored["spec"]["rollout"] == {
        "maxSurge": 1,
        "maxUnavailable": 0,
        "minReadySeconds": 0,
        "paused": False,
        "revisionHistoryLimit": 10,
    }


def test_free_form_fields_are_kept(kubectl: Kubectl) -> None:
    free = GOOD | {
        "engineArgs": {"compilation-config": {"level": 3}, "seed": 0},
        "podTemplate": {"spec": {"nodeSelector": {"a": "b"}}},
        "autoscaling": {"maxReplicas": 2, "metrics": [{"type": "Pods"}], "behavior": {"scaleDown": {"x": 1}}},
    }
    stored = json.loads(kubectl.good("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=pool(free)))["spec"]
    assert stored["engineArgs"] == free["engineArgs"]
    assert stored["podTemplate"]["spec"] == free["podTemplate"]["spec"]
    assert stored["autoscaling"]["metrics"] == [{"type": "Pods"}]


def test_columns_scale_and_explain(kubectl: Kubectl) -> None:
    kubectl.good("create", "-f", "-", stdin=pool(GOOD, "shown"))
    said = {
        "CheckpointReady": ("True", "Published"),
        "Ready": ("False", "TooFewReady"),
        "Degraded": ("True", "Crashing"),
    }
    conditions = [
        {"type": type_, "status": holds, "reason": why, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for type_, (holds, why) in said.items()
    ]
    status = {"replicas": 3, "readyReplicas": 2, "restoredReplicas": 1, "selector": "a=b", "conditions": conditions}
    patch = json.dumps({"status": status})
    kubectl.good("patch", "vwp", "shown", "--subresource=status", "--type=merge", "-p", patch)
    header, row = kubectl.good("get", "vwp", "shown").splitlines()
    assert header.split() == ["NAME", "DESIRED", "READY", "STATUS", "WHY", "RESTORED", "CHECKPOINT", "AGE"]
    assert row.split()[:7] == ["shown", "1", "2", "TooFewReady", "Crashing", "1", "Published"]
    kubectl.good("scale", "vwp/shown", "--replicas=5")
    scale = json.loads(kubectl.good("get", "vwp", "shown", "--subresource=scale", "-o", "json"))
    assert scale["spec"]["replicas"] == 5 and scale["status"] == {"replicas": 3, "selector": "a=b"}
    assert "propagationSeconds" in kubectl.good("explain", "vwp.spec.drain")
    assert kubectl.good("get", "vernal").startswith("NAME")


def test_a_checkpoint_spec_cannot_change(kubectl: Kubectl) -> None:
    spec, _ = parse_pool({"spec": GOOD})
    assert spec is not None and spec.checkpoint.storage is not None
    vck = checkpoint(
        "default",
        spec,
        spec.checkpoint.storage,
        identity="a" * 64,
        host_tuple="b" * 64,
        identity_inputs={"x": 1},
        host={},
    )
    kubectl.good("create", "-f", "-", stdin=vck)
    name = vck["metadata"]["name"]
    status, text = kubectl("patch", "vck", name, "--type=merge", "-p", '{"spec":{"model":"other"}}')
    assert status != 0 and "spec is immutable" in text, text
    kubectl.good("label", "vck", name, "a=b")


@pytest.mark.parametrize("how", [[], ["--server-side"]], ids=["client-side", "server-side"])
def test_applying_the_example_again_does_not_undo_its_autoscaler(kubectl: Kubectl, how: list[str]) -> None:
    name = "example-" + (how[0][2:] if how else "client")
    example = yaml.safe_load((ROOT / "docs/examples/pool.yaml").read_text())
    example["metadata"]["name"] = name
    kubectl.good("apply", *how, "-f", "-", stdin=example)
    kubectl.good("scale", f"vwp/{name}", "--replicas=8")
    example["spec"]["drain"]["timeoutSeconds"] = 80
    kubectl.good("apply", *how, "-f", "-", stdin=example)
    spec = json.loads(kubectl.good("get", "vwp", name, "-o", "json"))["spec"]
    assert (spec["replicas"], spec["drain"]["timeoutSeconds"]) == (8, 80)


METRIC = {
    "type": "Pods",
    "pods": {
        "metric": {"name": "vernal_worker_requests_in_flight"},
        "target": {"type": "AverageValue", "averageValue": "16"},
    },
}


@pytest.mark.parametrize("replicas", [0, 1, 3])
def test_one_patch_wakes_a_pool_and_undoes_nobodys_number(kubectl: Kubectl, replicas: int) -> None:
    """What the waker sends; whichever of the two forms a Scale without replicas has (`vernal_waker.cluster`)."""
    name = f"woken-{replicas}"
    kubectl.good("create", "-f", "-", stdin=pool(GOOD | {"replicas": replicas}, name))
    statuses = []
    for asleep in _ASLEEP:
        operations = [
            {"op": "test", "path": "/spec", "value": asleep},
            {"op": "add", "path": "/spec/replicas", "value": 1},
        ]
        args = ("patch", "vwp", name, "--subresource=scale", "--type=json", "-p", json.dumps(operations))
        statuses.append(kubectl(*args)[0])
    spec = json.loads(kubectl.good("get", "vwp", name, "-o", "json"))["spec"]
    assert spec["replicas"] == max(1, replicas)
    assert statuses.count(0) == (1 if replicas == 0 else 0)


NEVER: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "never"},
            "spec": {
                "matchConstraints": {
                    "resourceRules": [
                        {
                            "apiGroups": ["vernal.dev"], "apiVersions": ["*"], "operations": ["UPDATE"],
                            "resources": ["vllmworkerpools/scale"], "resourceNames": ["never"],
                        }
                    ]
                },
                "validations": [{"expression": "object.spec.replicas == 0", "message": "not in this namespace"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "never"},
            "spec": {"policyName": "never", "validationActions": ["Deny"]},
        },
    ],
}  # fmt: skip


def wake(kubectl: Kubectl, name: str, trace: str = "", kept: Wakes | None = None) -> bool | None:
    async def call() -> bool | None:
        cluster = Cluster(admin(kubectl.kubeconfig), None, lambda: None, Wakes() if kept is None else kept)
        return await cluster.wake(PoolName("default", name), trace)

    return asyncio.run(call())


def test_a_wake_that_a_policy_refuses_is_no_pool_that_is_awake(
    kubectl: Kubectl, caplog: pytest.LogCaptureFixture
) -> None:
    """Both are 422; who waits for a worker is told nothing of either but by the waker's log."""

    kubectl.good("create", "-f", "-", stdin=pool(GOOD | {"replicas": 2}, "awake"))
    assert wake(kubectl, "awake") is False, "it was awake"
    kubectl.good("create", "-f", "-", stdin=pool(GOOD | {"replicas": 0}, "never"))
    kubectl.good("create", "-f", "-", stdin=NEVER)
    scale = ("scale", "vwp/never", "--replicas=1", "--dry-run=server")
    until("the policy to be in force", lambda: "not in this namespace" in kubectl(*scale)[1])
    assert wake(kubectl, "never") is None
    assert "HTTP 422" in caplog.text and "not in this namespace" in caplog.text
    assert wake(kubectl, "absent") is None


def test_each_wake_is_kept_with_the_version_that_it_made(kubectl: Kubectl) -> None:
    """Of a request that is traced."""
    kept = Wakes()
    kubectl.good("create", "-f", "-", stdin=pool(GOOD | {"replicas": 0}, "woken"))
    expected = []
    for number in (1, 2, 3):
        trace = f"00-{number:032x}-{number:016x}-01"
        assert wake(kubectl, "woken", trace if number != 2 else "", kept) is True
        meta = json.loads(kubectl.good("get", "vwp", "woken", "-o", "json"))["metadata"]
        expected += [Wake(meta["uid"], int(meta["resourceVersion"]), trace)] if number != 2 else []
        assert wake(kubectl, "woken", trace, kept) is False
        kubectl.good("scale", "vwp/woken", "--replicas=0")
    assert list(kept.of(expected[0].uid)) == expected


@pytest.mark.parametrize("how", [[], ["--server-side"]], ids=["client-side", "server-side"])
def test_applying_a_pool_at_zero_again_does_not_wake_it(kubectl: Kubectl, how: list[str]) -> None:
    scaled = {"minReplicas": 0, "maxReplicas": 2, "idleSeconds": 60}
    wanted = pool({k: v for k, v in GOOD.items() if k != "replicas"} | {"autoscaling": scaled}, f"asleep{len(how)}")
    kubectl.good("apply", *how, "-f", "-", stdin=wanted)
    name = wanted["metadata"]["name"]
    assert json.loads(kubectl.good("get", "vwp", name, "-o", "json"))["spec"]["replicas"] == 1
    kubectl.good("scale", f"vwp/{name}", "--replicas=0")
    kubectl.good("apply", *how, "-f", "-", stdin=wanted)
    wanted["spec"]["autoscaling"]["idleSeconds"] = 61
    kubectl.good("apply", *how, "-f", "-", stdin=wanted)
    spec = json.loads(kubectl.good("get", "vwp", name, "-o", "json"))["spec"]
    assert (spec["replicas"], spec["autoscaling"]["idleSeconds"]) == (0, 61)


def test_all_that_is_built_is_valid(kubectl: Kubectl) -> None:
    spec, error = parse_pool(
        {
            "spec": GOOD
            | {
                "model": {"name": "m", "source": {"claim": {"claimName": "models", "path": "a"}}},
                "resources": {"limits": {"cpu": 4, "memory": "8Gi"}, "claims": [{"name": "gpu"}]},
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}},
                ],
                "autoscaling": {"minReplicas": 1, "maxReplicas": 3, "metrics": [METRIC]},
                "disruptionBudget": {"maxUnavailable": "50%"},
                "podTemplate": {"spec": {"tolerations": [{"operator": "Exists"}], "imagePullSecrets": [{"name": "x"}]}},
            }
        }
    )
    assert spec is not None, error
    disabled, _ = parse_pool({"spec": GOOD | {"checkpoint": {"policy": "Disabled"}}})
    assert disabled is not None
    owner = pool_owner("p", "default", "2c9b2c9b-0000-4000-8000-000000000000")
    vck = VLLMCheckpointSpec(
        identity="a" * 64,
        host_tuple="b" * 64,
        model="m",
        storage=spec.checkpoint.storage,
        image="i",
        image_pull_secrets=["x"],
    )
    built = [
        worker_pod(owner, spec, "abcdef12", 0),
        worker_pod(owner, disabled, "abcdef13", 1),
        *children(owner, spec),
        autoscaler(
            pool_owner("q", "default", owner.uid), AutoscalingSpec(min_replicas=0, max_replicas=3, idle_seconds=9)
        ),
        waker_slice(owner, ["10.1.2.3", "10.1.2.4"], 20001, ipv6=False, stands=True),
        waker_slice(pool_owner("q", "default", owner.uid), [], 20001, ipv6=True, stands=True),
        controller_revision(owner, "abcdef12", 1, revision_data(owner, spec, "abcdef12", content(spec))),
        janitor_job(checkpoint_owner("k", "default", "2c9b2c9b-0000-4000-8000-000000000001"), vck),
    ]
    items = {"apiVersion": "v1", "kind": "List", "items": built}
    text = kubectl.good("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=items)
    assert text.count("created (server dry run)") == len(built) and "Warning" not in text, text
