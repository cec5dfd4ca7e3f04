"""The operator's only way to the API server: raw JSON over the `kubernetes` client's connection pool.

Nothing is retried here. A reconcile is the retry: it starts again from what is there, which is right also
where a repeated call would not be. Every call has a time-out and is counted (`metrics.API_REQUESTS`).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlencode

import kubernetes
import msgspec
import urllib3
from kubernetes.utils.keepalive import tcp_keepalive_socket_options
from vernal_contract import decoding, names

from vernal_operator import metrics, nesting
from vernal_operator.kinds import Kind

Object = dict[str, Any]
Verb = Literal["get", "list", "watch", "create", "apply", "patch", "jsonpatch", "delete"]

_METHODS: dict[Verb, str] = {
    "get": "GET", "list": "GET", "watch": "GET",
    "create": "POST", "apply": "PATCH", "patch": "PATCH", "jsonpatch": "PATCH", "delete": "DELETE",
}  # fmt: skip
_CONTENT_TYPES: dict[Verb, str] = {
    "apply": "application/apply-patch+yaml",  # JSON is YAML
    "patch": "application/merge-patch+json",
    "jsonpatch": "application/json-patch+json",
}
_CONNECT_SECONDS = 5.0
_SERVERS_SHARE = 0.8
"""Of a write's time-out. The API server gives up first: where a webhook holds a write up, it says so, instead of being
taken for one that is not there.
"""
_WRITES: frozenset[Verb] = frozenset(("create", "apply", "patch", "jsonpatch", "delete"))
_NOT_LEADER = "NotLeader"
_DENIED = re.compile(r"admission webhook \S+ denied")
_NOT_ASKED = re.compile(r"failed calling webhook")


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct):
    """`meta/v1.Status`, what the API server answers a failure with."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


_STATUS: Callable[[bytes], _Status] = decoding.json_decoder(_Status)
_OBJECT: Callable[[bytes], "Object"] = nesting.decoder(dict[str, Any])


class ApiError(Exception):
    """A call to the API server failed.

    Attributes:
        status: HTTP status; 0 if no (whole) answer came.
        reason: the API server's word, e.g. NotFound, AlreadyExists, Conflict, Expired, Invalid; or ours
            without one.
        retry_after: seconds that the server asked to wait, if it did.
        sentence: the API server's own words, or ours where no answer came.
        causes: the API server's words for details, e.g. NamespaceTerminating.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after: float | None = None,
        *,
        sentence: str = "",
        causes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.sentence = sentence or message
        self.causes = causes

    @property
    def webhook(self) -> Literal["", "denied", "not asked"]:
        """Whether it is an admission webhook that kept a write from being done.

        Its status then says nothing: a webhook that denies names any from 400 on, and one that the API server could not
        ask is an internal error (500) of the API server.
        """
        if _DENIED.search(self.sentence):
            return "denied"
        return "not asked" if _NOT_ASKED.search(self.sentence) else ""

    @property
    def not_found(self) -> bool:
        return self.status == 404 and not self.webhook

    @property
    def conflict(self) -> bool:
        """409: it exists already, or a precondition (uid, resourceVersion) does not hold."""
        return self.status == 409 and not self.webhook

    @property
    def expired(self) -> bool:
        """410: the resourceVersion or continue token is too old."""
        return self.status == 410

    @property
    def passing(self) -> bool:
        """It may go better the next time though nothing changes: overload, a crash, a lost connection."""
        return (self.status in (0, 408, 429) or self.status >= 500) and not self.webhook

    @property
    def unavailable(self) -> bool:
        """The API server is not there, or wants to be left alone. Any other failure may be of this one call."""
        return self.status in (0, 429, 503) and not self.webhook

    @property
    def namespace_terminating(self) -> bool:
        """The namespace is going away, with all that is in it: nothing can be made there any more."""
        return self.status == 403 and "NamespaceTerminating" in self.causes

    @property
    def outcome_unknown(self) -> bool:
        """A write may have been done all the same."""
        return (self.status == 0 and self.reason != _NOT_LEADER) or (self.status >= 500 and not self.webhook)


def connect(connections: int = 32) -> "Client":
    """A client with the pod's service account, or with KUBECONFIG where that is set.

    Raises:
        kubernetes.config.ConfigException: neither is there; the message names what is missing.
    """
    configuration = kubernetes.client.Configuration()
    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ:
        kubernetes.config.load_incluster_config(client_configuration=configuration)
    else:
        kubernetes.config.load_kube_config(kubeconfig, client_configuration=configuration)
    configuration.connection_pool_maxsize = connections
    configuration.socket_options = tcp_keepalive_socket_options()
    return Client(kubernetes.client.ApiClient(configuration))


class Client:
    """Calls on namespaced objects. Thread-safe.

    Every method raises ApiError where the answer is not 2xx.
    """

    def __init__(self, api: Any, timeout: float = 15.0) -> None:
        """`api` is a `kubernetes.client.ApiClient`; `timeout` bounds each call but watches. Seconds."""
        self._api = api
        self._timeout = timeout
        self._seconds_left: Callable[[], float] | None = None
        self._ended: Callable[[], None] = lambda: None

    def guard(self, seconds_left: Callable[[], float]) -> None:
        """From now on no write is begun, and none is waited for, after `seconds_left()`."""
        self._seconds_left = seconds_left

    def listen(self, ended: Callable[[], None]) -> None:
        """From now on `ended` is called after each call, in the thread that made it, however the call ended."""
        self._ended = ended

    def unguarded(self, timeout: float) -> "Client":
        """The same way to the API server, with no guard and no listener."""
        return Client(self._api, timeout)

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        return self._json("get", kind, kind.path(namespace, name))

    def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        query = {"fieldManager": names.FIELD_MANAGER}
        return self._json("create", kind, kind.path(namespace), query, body)

    def apply(self, kind: Kind, namespace: str, body: Object, subresource: str = "") -> Object:
        """Server-side apply with force: `body` is all that this field manager wants of the object."""
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        return self._json("apply", kind, kind.path(namespace, body["metadata"]["name"], subresource), query, body)

    def patch(self, kind: Kind, namespace: str, name: str, body: Object, subresource: str = "") -> Object:
        """JSON merge patch; with metadata.resourceVersion in `body` only on that version."""
        query = {"fieldManager": names.FIELD_MANAGER}
        return self._json("patch", kind, kind.path(namespace, name, subresource), query, body)

    def patch_where(
        self, kind: Kind, namespace: str, name: str, operations: list[Object], subresource: str = ""
    ) -> Object:
        """JSON patch (RFC 6902). ApiError with status 422 if one of its tests does not hold."""
        query = {"fieldManager": names.FIELD_MANAGER}
        return self._json("jsonpatch", kind, kind.path(namespace, name, subresource), query, operations)

    def delete(self, kind: Kind, namespace: str, name: str, uid: str, resource_version: str | None = None) -> Object:
        """Delete exactly this object (in this version); its dependents follow in the background."""
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body = {"preconditions": preconditions, "propagationPolicy": "Background"}
        return self._json("delete", kind, kind.path(namespace, name), None, body)

    def list_page(self, kind: Kind, namespace: str | None, query: Mapping[str, str]) -> bytes:
        with self._send("list", kind, kind.path(namespace), query) as response:
            return self._read(response)

    @contextmanager
    def watch(self, kind: Kind, namespace: str | None, query: Mapping[str, str], idle: float) -> "Iterator[Watch]":
        """Open a watch. `idle` is the longest silence, in seconds, before it counts as broken."""
        with self._send("watch", kind, kind.path(namespace), {**query, "watch": "true"}, read_timeout=idle) as response:
            yield Watch(response)

    @property
    def configuration(self) -> Any:
        """The `kubernetes.client.Configuration`: address, certificates, token."""
        return self._api.configuration

    # -- underneath ---

    def _json(
        self,
        verb: Verb,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | list[Object] | None = None,
    ) -> Object:
        with self._send(verb, kind, path, query, body) as response:
            data = self._read(response)
        return _OBJECT(data)

    @contextmanager
    def _send(
        self,
        verb: Verb,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | list[Object] | None = None,
        read_timeout: float | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        method, what = _METHODS[verb], f"{verb} {path}"
        headers = {"Accept": "application/json", "User-Agent": f"{names.FIELD_MANAGER}/{names.VERSION}"}
        if body is not None:
            headers["Content-Type"] = _CONTENT_TYPES.get(verb, "application/json")
        # Reads the token again where it rotates (service accounts, exec plugins).
        self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        code = 0
        left = self._seconds_left() if self._seconds_left is not None and verb in _WRITES else None
        if left is not None and left <= 0:
            raise ApiError(0, _NOT_LEADER, f"{what}: not sent: this operator does not hold the lease")
        if verb in _WRITES:
            query = {"timeout": f"{_SERVERS_SHARE * min(self._timeout, left or self._timeout):.3f}s", **(query or {})}
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
                method, url,
                body=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=urllib3.Timeout(total=left, connect=_CONNECT_SECONDS, read=read_timeout or self._timeout),
                preload_content=False, retries=False, redirect=False,
            )  # fmt: skip
            code = response.status
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, type(error).__name__, f"{what}: no answer: {error}") from error
        finally:
            metrics.API_REQUESTS.labels(verb, kind.plural, str(code)).inc()
            self._ended()
        try:
            if not 200 <= code < 300:
                raise _refusal(what, response)
            yield response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, type(error).__name__, f"{what}: the answer broke off: {error}") from error
        finally:
            # A response that was read whole gave its connection back already; any other cannot be used again.
            response.close()

    @staticmethod
    def _read(response: urllib3.BaseHTTPResponse) -> bytes:
        data = response.read()
        response.release_conn()
        return data


def _refusal(what: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    data = response.read()
    response.release_conn()
    try:
        status = _STATUS(data)
    except msgspec.DecodeError:
        status = _Status(message=data[:200].decode(errors="replace"))
    after = response.headers.get("Retry-After", "")
    return ApiError(
        response.status,
        status.reason or f"HTTP{response.status}",
        f"{what}: HTTP {response.status} {status.reason}: {status.message}",
        float(after) if after.isdigit() else None,
        sentence=status.message,
        causes=tuple(cause.reason for cause in (status.details and status.details.causes) or ()),
    )


class Watch:
    """The lines of an open watch. Iterating raises ApiError (status 0) if it breaks, and ends if the server
    closes it.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        for chunk in self._response.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from filter(None, lines)
        # A last line without its end is dropped: the connection broke inside it.

    def close(self) -> None:
        """End it from another thread."""
        try:
            self._response.shutdown()
        except (RuntimeError, ValueError, OSError):
            pass  # it ended by itself meanwhile


__all__ = ["ApiError", "Client", "Object", "Verb", "Watch", "connect"]
