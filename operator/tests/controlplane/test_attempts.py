"""A user with the chart's role `-edit` in one namespace, and nothing else, tries to get at more: see `api.attempts`."""

from dataclasses import dataclass
from typing import Any

import kubernetes
import pytest
from api.attempts import ATTEMPTS, IMAGE
from api.test_parse import GOOD, everyday_overlay
from cluster.apiserver import ApiServer
from controlplane.cases import CORE, SYSTEM, Case, Server, pool
from controlplane.chart import KINDS, install, rendered
from controlplane.test_chart import CHECKPOINT
from controlplane.test_refusals import degraded
from patience import GUARD_SECONDS, until
from vernal_contract import names
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import CHECKPOINTS, PODS, POOLS, REVISIONS, Kind

pytestmark = pytest.mark.apiserver

NAMESPACE = "tried"
SECRETS = Kind("", "v1", "Secret", "secrets")


@dataclass(frozen=True)
class Users:
    """Service accounts of the namespace that have one of the chart's roles each."""

    edit: Client
    admin: Client


def _bound(server: Server, api: ApiServer, role: str) -> Client:
    made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": role}}
    server.client.create(CORE["ServiceAccount"], NAMESPACE, made)
    server.client.create(KINDS["RoleBinding"], NAMESPACE, {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{SYSTEM}-vernal-{role}"},
        "subjects": [{"kind": "ServiceAccount", "name": role, "namespace": NAMESPACE}],
    })  # fmt: skip
    path = CORE["ServiceAccount"].path(NAMESPACE, role, "token")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 36000}}
    token = server.client._json("create", CORE["ServiceAccount"], path, None, body)["status"]["token"]
    configuration = kubernetes.client.Configuration()
    configuration.host, configuration.ssl_ca_cert = api.url, str(api.pki / "ca.crt")
    configuration.api_key = {"BearerToken": f"Bearer {token}"}
    client = Client(kubernetes.client.ApiClient(configuration), timeout=GUARD_SECONDS)

    def granted() -> bool:
        try:
            client.list_page(POOLS, NAMESPACE, {})
        except ApiError:
            return False
        return True

    until(f"the rights of {role}", granted)  # the API server hears of a binding some time after it was made
    return client


def _pool(fields: dict[str, Any], name: str = "p") -> dict[str, Any]:
    spec = GOOD | {"image": IMAGE} | fields
    return {"apiVersion": names.API_VERSION, "kind": POOLS.name, "metadata": {"name": name}, "spec": spec}


def _refused(user: Client, kind: Kind, body: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as refused:
        user.create(kind, NAMESPACE, body)
    assert refused.value.status in (403, 422), refused.value
    return refused.value.sentence


@pytest.fixture(scope="module")
def users(server: Server, api: ApiServer) -> Users:
    """With a second release's policy for this namespace, which names the images that are allowed."""
    server.client.create(
        CORE["Namespace"], "", {"metadata": {"name": NAMESPACE}, "apiVersion": "v1", "kind": "Namespace"}
    )
    settings = (
        "crds.install=false",
        f"watchNamespace={NAMESPACE}",
        "admissionPolicy.images={registry.example.com/vernal/}",
    )
    made = [d for d in rendered(server.helm, NAMESPACE, *settings) if d["kind"].startswith("ValidatingAdmission")]
    assert len(made) == 4, "pools and checkpoints"
    install(server.client, made)
    users = Users(_bound(server, api, "edit"), _bound(server, api, "admin"))

    def in_force(kind: Kind, body: dict[str, Any]) -> bool:
        """Whether another image is refused."""
        try:
            found = server.client.create(kind, NAMESPACE, body)
        except ApiError as error:
            return error.status == 403
        server.client.delete(kind, NAMESPACE, found["metadata"]["name"], found["metadata"]["uid"])
        return False

    until("the policy of images to be in force", lambda: in_force(POOLS, _pool({"image": "evil:1"}, "probe")))
    until("that of checkpoints", lambda: in_force(CHECKPOINTS, CHECKPOINT))
    until("that of pods", lambda: in_force(POOLS, _pool({"podTemplate": {"spec": {"hostPID": True}}}, "probe")))
    return users


@pytest.mark.every_release
@pytest.mark.parametrize("name", ATTEMPTS)
def test_it_is_refused_with_its_reason(users: Users, name: str) -> None:
    one = ATTEMPTS[name]
    assert one.says in _refused(users.edit, POOLS, _pool(one.fields))


def test_what_a_pool_is_for_is_let_in(users: Users) -> None:
    """So that the refusals are about what was tried."""
    overlay = everyday_overlay()
    for container in (*overlay["containers"], *overlay["initContainers"]):
        if container["name"] != "worker":
            container["image"] = IMAGE
    made = users.edit.create(POOLS, NAMESPACE, _pool({"podTemplate": {"spec": overlay}}, "good"))
    users.edit.delete(POOLS, NAMESPACE, "good", made["metadata"]["uid"])


def test_other_objects_are_out_of_reach(users: Users) -> None:
    """The role has pools alone, and neither their status nor what the operator makes of them."""
    made = users.edit.create(POOLS, NAMESPACE, _pool({}, "own"))
    try:
        pod = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": IMAGE}]}}
        for kind, body in (
            (CHECKPOINTS, CHECKPOINT),
            (REVISIONS, {"metadata": {"name": "x"}, "revision": 1, "data": {}}),
            (PODS, pod),
            (SECRETS, {"metadata": {"name": "x"}}),
            (CORE["PersistentVolumeClaim"], {"metadata": {"name": "x"}}),
        ):
            said = _refused(users.edit, kind, {"apiVersion": kind.api_version, "kind": kind.name} | body)
            assert f'cannot create resource "{kind.plural}"' in said, said
        for kind, name in ((POOLS, "own"), (CHECKPOINTS, "c")):
            with pytest.raises(ApiError, match=rf'cannot patch resource "{kind.plural}/status"'):
                users.edit.patch(kind, NAMESPACE, name, {"status": {"currentRevision": "1a2b3c4d"}}, "status")
        with pytest.raises(ApiError, match='cannot patch resource "vllmcheckpoints"'):
            users.edit.patch(CHECKPOINTS, NAMESPACE, "c", {"spec": {"image": IMAGE}})
        with pytest.raises(ApiError, match=r'cannot create resource "vllmworkerpools" .* in the namespace "default"'):
            users.edit.create(POOLS, "default", _pool({}))
    finally:
        users.edit.delete(POOLS, NAMESPACE, "own", made["metadata"]["uid"])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"storage": {"claimName": "other/store"}}, "claimName must be the name of a PersistentVolumeClaim"),
        ({"storage": {"claimName": "c", "subPath": "../other"}}, "subPath must be relative to the claim's root"),
        ({"storage": {"claimName": "c", "subPath": "/other"}}, "subPath must be relative to the claim's root"),
        ({"identity": "../" * 20 + "aaaa"}, "spec.identity"),
        ({"hostTuple": "x/../y"}, "spec.hostTuple"),
        ({"image": "evil:1"}, "spec.image must begin with one of registry.example.com/vernal/ (admissionPolicy.images"),
    ],
)  # fmt: skip
def test_a_checkpoint_made_by_hand(users: Users, fields: dict[str, Any], says: str) -> None:
    """By the role `-admin`, which may make some: the janitor runs its image, over its claim and path."""
    spec = CHECKPOINT["spec"] | {"image": IMAGE} | fields  # type: ignore[operator]
    assert says in _refused(users.admin, CHECKPOINTS, CHECKPOINT | {"spec": spec})


def test_a_checkpoint_cannot_be_led_elsewhere(users: Users) -> None:
    body = CHECKPOINT | {"spec": CHECKPOINT["spec"] | {"image": IMAGE}}  # type: ignore[operator]
    made = users.admin.create(CHECKPOINTS, NAMESPACE, body)
    try:
        for change in ({"storage": {"claimName": "others"}}, {"identity": "2" * 64}, {"image": "evil:1"}):
            with pytest.raises(ApiError, match=r"spec is immutable|admissionPolicy\.images"):
                users.admin.patch(CHECKPOINTS, NAMESPACE, "c", {"spec": change})
        with pytest.raises(ApiError, match='cannot patch resource "vllmcheckpoints/status"'):
            users.admin.patch(CHECKPOINTS, NAMESPACE, "c", {"status": {"usedBy": ["others"]}}, "status")
    finally:
        users.admin.delete(CHECKPOINTS, NAMESPACE, "c", made["metadata"]["uid"])


@pytest.mark.parametrize("source", ["configMap", "secret"])
def test_what_only_a_pod_can_be_wrong_in_never_becomes_one(case: Case, source: str) -> None:
    """The policy does not look that deep; the API server does when the operator makes the pod, and the pool says so."""
    name = {"configMap": "name", "secret": "secretName"}[source]
    volume = {"name": "v", source: {name: "c", "items": [{"key": "k", "path": "../../etc/x"}]}}
    case.start()
    case.create(pool(replicas=1, podTemplate={"spec": {"volumes": [volume]}}))
    case.wait("the condition", lambda: degraded(case).get("reason") == "InvalidObject")
    assert "items[0].path" in degraded(case)["message"] and "must not contain '..'" in degraded(case)["message"]
    assert not case.items(PODS)
