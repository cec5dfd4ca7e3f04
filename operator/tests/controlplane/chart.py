"""The Helm chart's manifests, and as much of them as an operator outside of the cluster needs."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from cluster import build
from controlplane.cases import CORE, SYSTEM
from patience import until
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import CHECKPOINTS, POOLS, Kind

CHART = Path(__file__).parents[3] / "charts" / "vernal"
#: The least that is needed to install it.
IMAGE = "image.repository=registry.example.com/vernal-operator"
ADMISSION = "admissionregistration.k8s.io"
KINDS = CORE | {
    kind.name: kind
    for kind in (
        Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False),
        Kind("rbac.authorization.k8s.io", "v1", "Role", "roles"),
        Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
        Kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", False),
        Kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", False),
        Kind(ADMISSION, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", False),
        Kind(ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", False),
    )
}


def rendered(
    helm: str, release: str, *settings: str, policies: bool = True, chart: Path = CHART
) -> list[dict[str, Any]]:
    """The chart's manifests, for an API server that has admission policies, or has none."""
    command = [helm, "template", release, str(chart), "--namespace", SYSTEM, f"--kube-version={build.OLDEST}"]
    if policies:  # which Helm asks a cluster for, and does not presume
        command.append(f"--api-versions={ADMISSION}/v1/ValidatingAdmissionPolicy")
    for setting in (IMAGE, *settings):
        command += ["--set", setting]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def install(client: Client, documents: list[dict[str, Any]]) -> None:
    """The CRDs, the policy, the service account and its roles: everything of the chart but the Deployment."""
    for document in documents:
        kind = KINDS.get(document["kind"])
        if kind is not None:
            client.apply(kind, document["metadata"].get("namespace", ""), document)
    for kind in (POOLS, CHECKPOINTS):
        until(f"{kind.name} to be served", lambda kind=kind: _served(client, kind))  # type: ignore[misc]
    for document in documents:
        if document["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            _wait_granted(client, document, documents)


def _wait_granted(client: Client, binding: dict[str, Any], documents: list[dict[str, Any]]) -> None:
    """The API server hears of roles and of bindings some time after they were made."""
    where, ref = binding["metadata"].get("namespace"), binding["roleRef"]
    (role,) = (
        document
        for document in documents
        if (document["kind"], document["metadata"]["name"]) == (ref["kind"], ref["name"])
        and document["metadata"].get("namespace") in (None, where)
    )
    for subject in binding["subjects"]:
        for rule in role["rules"]:
            resource, _, subresource = rule["resources"][-1].partition("/")
            asked = {"verb": rule["verbs"][-1], "group": rule["apiGroups"][-1], "resource": resource}
            asked |= {"subresource": subresource, "namespace": where or subject["namespace"]}
            asked["name"] = rule.get("resourceNames", [""])[-1]
            user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
            body = {"spec": {"user": user, "resourceAttributes": asked}}
            until(f"{user} to be granted {asked}", lambda body=body: _is_granted(client, body))  # type: ignore[misc]


def _is_granted(client: Client, body: dict[str, Any]) -> bool:
    kind = Kind("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", False)
    named = {"apiVersion": kind.api_version, "kind": kind.name, **body}
    return bool(client._json("create", kind, kind.path(None), None, named)["status"]["allowed"])


def _served(client: Client, kind: Kind) -> bool:
    try:
        client.list_page(kind, None, {})
    except ApiError:
        return False
    return True


def token(client: Client, account: str) -> str:
    """A token of a service account."""
    path = CORE["ServiceAccount"].path(SYSTEM, account, "token")
    spec = {"expirationSeconds": 36000}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return str(client._json("create", CORE["ServiceAccount"], path, None, body)["status"]["token"])
