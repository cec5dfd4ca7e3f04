"""The custom metrics API (`custom.metrics.k8s.io`) over what an operator exports, as Prometheus and its adapter serve
it: a real HPA asks a real API server, which asks this. Only metrics of pools are there.
"""

import http.client
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from patience import GUARD_SECONDS, until
from vernal_contract import names
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import POOLS, SERVICES, Kind

GROUP, VERSION = "custom.metrics.k8s.io", "v1beta2"
API_SERVICES = Kind("apiregistration.k8s.io", "v1", "APIService", "apiservices", namespaced=False)
_ONE = re.compile(rf"/apis/{GROUP}/{VERSION}/namespaces/([^/]+)/{POOLS.plural}\.{names.GROUP}/([^/?]+)/([^/?]+)")


class CustomMetrics:
    """Serves until `close`. `port` is where an operator's /metrics is, on loopback."""

    def __init__(self, client: Client, namespace: str, pki: Path, port: int) -> None:
        outer = self
        self._client, self._operator = client, ("127.0.0.1", port)
        self.asked = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body = outer.answer(self.path)
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._register(client, namespace)

    def close(self) -> None:
        found = self._client.get(API_SERVICES, None, f"{VERSION}.{GROUP}")
        self._client.delete(API_SERVICES, "", found["metadata"]["name"], found["metadata"]["uid"])
        self._server.shutdown()

    def _register(self, client: Client, namespace: str) -> None:
        port = self._server.server_port
        service = {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics", "namespace": namespace},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
        }  # fmt: skip
        client.apply(SERVICES, namespace, service)
        registration = {
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": True, "service": {"namespace": namespace, "name": "metrics", "port": port},
            },
        }  # fmt: skip
        client.apply(API_SERVICES, "", registration)
        until("the metrics API to be there", lambda: self._is_there(client))

    def _is_there(self, client: Client) -> bool:
        try:
            found = client.get(API_SERVICES, None, f"{VERSION}.{GROUP}")
        except ApiError:
            return False
        conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", [])}
        return conditions.get("Available") == "True"

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        if path.partition("?")[0] in (f"/apis/{GROUP}/{VERSION}", f"/apis/{GROUP}/{VERSION}/"):
            resource = {
                "name": f"{POOLS.plural}.{names.GROUP}/vernal_pool_pressure", "singularName": "", "namespaced": True,
                "kind": "MetricValueList", "verbs": ["get"],
            }  # fmt: skip
            group = f"{GROUP}/{VERSION}"
            return 200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": [resource]}
        if (found := _ONE.match(path)) is None:
            return 404, _failure(404, "NotFound", path)
        namespace, pool, metric = found.groups()
        self.asked += 1
        value = self._value(f'{metric}{{namespace="{namespace}",pool="{pool}"}}')
        if value is None:
            return 404, _failure(404, "NotFound", f"{metric} of {namespace}/{pool}: the operator does not say")
        item = {
            "describedObject": {
                "kind": POOLS.name, "namespace": namespace, "name": pool, "apiVersion": names.API_VERSION
            },
            "metric": {"name": metric}, "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "value": f"{round(value * 1000)}m",
        }  # fmt: skip
        return 200, {
            "kind": "MetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": [item]
        }  # fmt: skip

    def _value(self, sample: str) -> float | None:
        connection = http.client.HTTPConnection(*self._operator, timeout=GUARD_SECONDS)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        except OSError:  # it was killed
            return None
        finally:
            connection.close()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} ")), None)


def _failure(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message
    }  # fmt: skip
