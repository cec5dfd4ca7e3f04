"""Real admission webhooks on loopback, for one namespace."""

import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from cluster.apiserver import ApiServer
from controlplane.cases import admin, refusal
from patience import until
from vernal_operator.client import Client
from vernal_operator.kinds import PODS, SERVICES, Kind

GROUP = "admissionregistration.k8s.io"
PATIENCE_SECONDS = 30
"""For which the API server waits for a webhook: the longest that there is."""


@contextmanager
def webhook(
    api: ApiServer,
    namespace: str,
    sort: Literal["Validating", "Mutating"],
    answer: Callable[[dict[str, Any]], dict[str, Any]],
) -> Iterator[None]:
    """`answer` gets each pod that is created and returns the AdmissionReview's response, less its uid. It is asked from
    the beginning: the API server hears of a webhook some time after it was made.
    """
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if review["request"]["dryRun"]:  # ours
                asked.set()
                response: dict[str, Any] = {"allowed": True}
            else:
                response = answer(review["request"]["object"])
            response = response | {"uid": review["request"]["uid"]}
            reply = {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(api.pki / "apiserver.crt", api.pki / "apiserver.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with _configured(api, namespace, sort, "pods", f"https://127.0.0.1:{server.server_port}/") as client:

            def is_asked() -> bool:
                _probed(client, namespace, "pods")
                return asked.is_set()

            until("the webhook to be asked", is_asked)
            yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def unreachable(api: ApiServer, namespace: str, resource: Literal["pods", "services"]) -> Iterator[None]:
    """A webhook that must be asked about each that is created, and that nobody can ask."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with _configured(api, namespace, "Validating", resource, f"https://127.0.0.1:{port}/") as client:
        until("the webhook to be missed", lambda: "failed calling webhook" in _probed(client, namespace, resource))
        yield


def _probed(client: Client, namespace: str, resource: Literal["pods", "services"]) -> str:
    if resource == "pods":
        return refusal(client, PODS, namespace, spec={"containers": [{"name": "c", "image": "i"}]})
    return refusal(client, SERVICES, namespace, spec={"ports": [{"port": 1}]})


@contextmanager
def _configured(
    api: ApiServer, namespace: str, sort: Literal["Validating", "Mutating"], resource: str, url: str
) -> Iterator[Client]:
    hook = {
        "name": f"{resource}.example.com",
        "clientConfig": {"url": url, "caBundle": base64.b64encode((api.pki / "ca.crt").read_bytes()).decode()},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "failurePolicy": "Fail",
        "timeoutSeconds": PATIENCE_SECONDS,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = Kind(GROUP, "v1", f"{sort}WebhookConfiguration", f"{sort.lower()}webhookconfigurations", False)
    client = admin(api.kubeconfig)
    body = {"apiVersion": f"{GROUP}/v1", "kind": kind.name, "metadata": {"name": namespace}, "webhooks": [hook]}
    made = client.create(kind, "", body)
    try:
        yield client
    finally:
        client.delete(kind, "", namespace, made["metadata"]["uid"])


def patched(*operations: dict[str, Any]) -> dict[str, Any]:
    """The response of a mutating webhook."""
    patch = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": patch}
