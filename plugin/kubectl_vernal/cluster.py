"""The only way to the API server: JSON over the connection pool of the `kubernetes` client, as a kubeconfig says."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import kubernetes
import urllib3

from kubectl_vernal.errors import ApiError, PluginError

Object = dict[str, Any]

_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
MANAGER = "kubectl-vernal"
"""The field manager of what the plugin writes."""

_SECONDS = 15.0
_PAGE = 500


def path(plural: str, namespace: str | None = None, name: str = "", subresource: str = "", group: str = "") -> str:
    """Path on the API server. `group` is "group/version", or "" for core/v1; without `namespace` all of them."""
    parts = ["apis", *group.split("/")] if group else ["api", "v1"]
    if namespace is not None:
        parts += ["namespaces", namespace]
    parts += [plural, *([name] if name else []), *([subresource] if subresource else [])]
    return "/" + "/".join(quote(part, safe="") for part in parts)


class Cluster:
    """One cluster, as one user. Every call raises `ApiError` where the answer is not 2xx."""

    def __init__(self, api: Any, namespace: str) -> None:
        """`api` is a `kubernetes.client.ApiClient`; `namespace` is that of the context."""
        self._api = api
        self.namespace = namespace

    @classmethod
    def connect(cls, kubeconfig: str | None, context: str | None) -> "Cluster":
        """As kubectl does: --kubeconfig, KUBECONFIG, ~/.kube/config; inside of a pod its service account.

        Raises:
            PluginError: there is no usable configuration.
        """
        configuration = kubernetes.client.Configuration()
        file = kubeconfig or os.environ.get("KUBECONFIG")
        try:
            if not file and not context and "KUBERNETES_SERVICE_HOST" in os.environ:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
                return cls(kubernetes.client.ApiClient(configuration), _own_namespace())
            kubernetes.config.load_kube_config(file, context=context, client_configuration=configuration)
            kube = kubernetes.config.kube_config
            merged = kube.KubeConfigMerger(file or kube.KUBE_CONFIG_DEFAULT_LOCATION).config
            chosen = kube.KubeConfigLoader(merged, active_context=context).current_context
        except (kubernetes.config.ConfigException, OSError) as error:
            raise PluginError(
                f"no way to a cluster: {str(error).rstrip(chr(46))}. Set KUBECONFIG, or give --kubeconfig or --context"
            ) from None
        return cls(kubernetes.client.ApiClient(configuration), chosen["context"].get("namespace") or "default")

    @property
    def server(self) -> str:
        return str(self._api.configuration.host)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        return _decoded(self._call("GET", path, query), f"GET {path}")

    def items(self, path: str, query: Mapping[str, str] | None = None) -> list[Object]:
        """All objects of a list, page by page."""
        out: list[Object] = []
        more = ""
        while True:
            page = self.get(path, {**(query or {}), "limit": str(_PAGE), **({"continue": more} if more else {})})
            out += page["items"]
            more = page["metadata"].get("continue", "")
            if not more:
                return out

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        return self._call("GET", path, query).decode(errors="replace")

    def lines(self, path: str, query: Mapping[str, str]) -> Iterator[str]:
        """Lines of an answer as they come, until the server ends it."""
        response = self._send("GET", path, query, None, None)
        rest = b""
        try:
            for chunk in response.stream(1 << 14):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, f"GET {path}: the answer broke off: {error}") from None
        finally:
            response.close()
        if rest:
            yield rest.decode(errors="replace")

    def post(self, path: str, body: Object) -> Object:
        return _decoded(self._call("POST", path, {"fieldManager": MANAGER}, body), f"POST {path}")

    def patch(self, path: str, body: Object | list[Object], *, dry_run: bool = False) -> Object:
        """JSON merge patch of an object, or JSON patch of a list of operations."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        content_type = _JSON_PATCH if isinstance(body, list) else _MERGE_PATCH
        return _decoded(self._call("PATCH", path, query, body, content_type), f"PATCH {path}")

    # -- underneath ---

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | list[Object] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        response = self._send(method, path, query, body, content_type)
        try:
            data: bytes = response.read()
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, f"{method} {path}: the answer broke off: {error}") from None
        response.release_conn()
        return data

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | list[Object] | None,
        content_type: str | None,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json, */*", "User-Agent": MANAGER}
        if body is not None and content_type:
            headers["Content-Type"] = content_type
        self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        follow = (query or {}).get("follow") == "true"
        try:
            response: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
                method, url, body=None if body is None else json.dumps(body).encode(), headers=headers,
                timeout=urllib3.Timeout(connect=_SECONDS, read=None if follow else _SECONDS),
                preload_content=False, retries=False, redirect=False,
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"no answer from {self.server}: {error}") from None
        if 200 <= response.status < 300:
            return response
        data = response.read()
        response.release_conn()
        raise ApiError(response.status, f"{method} {path}: {_sentence(data) or f'HTTP {response.status}'}")


def _decoded(data: bytes, what: str) -> Object:
    """Raises: ApiError: it is no JSON, or has an object that is nested without end, as anybody's may be."""
    try:
        found: Object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(0, f"{what}: the answer cannot be read: {error}") from None
    return found


def _sentence(data: bytes) -> str:
    """The API server's own words, or what else was answered."""
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return data[:200].decode(errors="replace").strip()


def _own_namespace() -> str:
    with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
        return file.read().strip()
