"""Single writes, each with its own answer to: what if it was done already, and what if nobody knows?

The cache shows an own write at once (`Cache.wrote`). A write whose answer was lost may have been done or not;
its object is noted as unresolved, and read by name before the next plan is made. So a plan never meets a
cache that is behind the operator's own hands.
"""

import logging
import threading
from typing import Any

from vernal_contract import names

from vernal_operator import metrics
from vernal_operator.client import ApiError, Client, Object, Verb
from vernal_operator.kinds import PODS, Key, Kind
from vernal_operator.observe.cache import Entry
from vernal_operator.observe.observer import Observer

log = logging.getLogger(__name__)


class TakenError(Exception):
    """An object of that name exists, and is not the pool's. It is left alone."""


class Writer:
    """Writes on behalf of one pool or checkpoint (`key`), seen by the caches. Thread-safe."""

    def __init__(self, client: Client, observer: Observer) -> None:
        self._client, self._observer = client, observer
        self._unresolved: dict[Key, set[tuple[Kind, str]]] = {}
        self._lock = threading.Lock()

    def resolve(self, key: Key) -> None:
        """Read back every object whose last write has an unknown outcome. Raises ApiError."""
        with self._lock:
            left = set(self._unresolved.get(key, ()))
        for kind, name in sorted(left, key=lambda ref: (ref[0].name, ref[1])):
            self._observer.refresh(kind, key.namespace, name)
            with self._lock:
                self._unresolved[key].discard((kind, name))

    def forget(self, key: Key) -> None:
        with self._lock:
            self._unresolved.pop(key, None)

    # -- writes ---

    def create(self, key: Key, kind: Kind, manifest: Object, owner: str | None) -> bool:
        """Create by name. False if it existed already, which is as good if its controller is `owner` (a uid;
        None if nobody owns it).

        Raises:
            TakenError: it exists and is somebody else's.
        """
        name = manifest["metadata"]["name"]
        try:
            answer = self._client.create(kind, key.namespace, manifest)
        except ApiError as error:
            if not error.conflict:
                raise self._failed("create", key, kind, name, error) from None
            found = self._observer.refresh(kind, key.namespace, name)
            _check_owner(kind, found, name, owner)
            if found is not None and kind is PODS and found.group != key.name:
                raise TakenError(
                    f"Pod {key.namespace}/{name} is this pool's, but lacks its label; delete it, or run kubectl label "
                    f"pod -n {key.namespace} {name} {names.LABEL_POOL}={key.name}"
                ) from None
            return False
        log.info("%s: created %s %s", key, kind.name, name)
        self._observer.wrote(kind, answer)
        return True

    def apply(self, key: Key, kind: Kind, manifest: Object, owner: str) -> None:
        """Server-side apply with force, unless an object of that name is somebody else's.

        Raises:
            TakenError: it is.
        """
        name = manifest["metadata"]["name"]
        known: Entry[Any] | None = self._observer.cache(kind).get(key.namespace, name)
        if known is None:
            # Apply would take an unlabelled object over, which no watch shows.
            known = self._observer.refresh(kind, key.namespace, name)
        _check_owner(kind, known, name, owner)
        try:
            answer = self._apply(kind, key.namespace, manifest, exists=known is not None)
        except ApiError as error:
            raise self._failed("apply", key, kind, name, error) from None
        log.info("%s: applied %s %s", key, kind.name, name)
        self._observer.wrote(kind, answer)

    def _apply(self, kind: Kind, namespace: str, manifest: Object, *, exists: bool) -> Object:
        try:
            return self._client.apply(kind, namespace, manifest)
        except ApiError as error:
            lists = {name: value for name, value in manifest.get("spec", {}).items() if isinstance(value, list)}
            if error.status != 422 or error.webhook or not exists or not lists:
                raise
        # Somebody put entries of his own in the place of ours: ports of a Service, say, of the same name. Applying adds
        # ours to them, which cannot stand there together; a merge patch replaces the list.
        self._client.patch(kind, namespace, manifest["metadata"]["name"], {"spec": lists})
        return self._client.apply(kind, namespace, manifest)

    def delete(
        self, key: Key, kind: Kind, name: str, uid: str, resource_version: str | None = None, why: str = "unwanted"
    ) -> bool:
        """Delete exactly this object. False if it is gone, or is not what it was when this was decided; the
        cache then shows what it is now.
        """
        cache = self._observer.cache(kind)
        try:
            answer = self._client.delete(kind, key.namespace, name, uid, resource_version)
        except ApiError as error:
            if error.not_found:
                cache.absent(key.namespace, name, uid)
            elif error.conflict:
                self._observer.refresh(kind, key.namespace, name)
            else:
                raise self._failed("delete", key, kind, name, error) from None
            return False
        log.info("%s: deleted %s %s (%s)", key, kind.name, name, why)
        if answer["metadata"].get("deletionTimestamp"):
            self._observer.wrote(kind, answer)  # it is terminating
        else:
            cache.absent(key.namespace, name, uid)  # it had nothing to wait for
        return True

    def status(self, key: Key, status: Object) -> bool:
        """Write the whole status, if the object is still what the cache shows. False if it is not; it is read
        anew.
        """
        known = self._observer.cache(key.kind).get(key.namespace, key.name)
        if known is None:
            return False
        body = {
            "apiVersion": key.kind.api_version,
            "kind": key.kind.name,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "uid": known.uid,
                "resourceVersion": str(known.version),
            },
            "status": status,
        }
        try:
            self._observer.wrote(key.kind, self._client.apply(key.kind, key.namespace, body, "status"))
        except ApiError as error:
            return self._outdated("apply", key, error)
        return True

    def scale(self, key: Key, replicas: int, version: int) -> bool:
        """Set the pool's replicas through /scale, if its resourceVersion is still `version`; otherwise as `status`."""
        known = self._observer.cache(key.kind).get(key.namespace, key.name)
        if known is None:
            return False
        body = {
            "metadata": {"uid": known.uid, "resourceVersion": str(version)},
            "spec": {"replicas": replicas},
        }
        try:
            self._client.patch(key.kind, key.namespace, key.name, body, "scale")
        except ApiError as error:
            return self._outdated("patch", key, error)
        log.info("%s: replicas are %d now", key, replicas)
        self._observer.refresh(key.kind, key.namespace, key.name)
        return True

    def finalizers(self, key: Key, finalizers: tuple[str, ...]) -> bool:
        """Write the whole list of finalizers; otherwise as `status`."""
        known = self._observer.cache(key.kind).get(key.namespace, key.name)
        if known is None:
            return False
        body = {
            "metadata": {
                "finalizers": list(finalizers),
                "uid": known.uid,
                "resourceVersion": str(known.version),
            }
        }
        try:
            self._observer.wrote(key.kind, self._client.patch(key.kind, key.namespace, key.name, body))
        except ApiError as error:
            return self._outdated("patch", key, error)
        return True

    # -- underneath ---

    def _outdated(self, verb: Verb, key: Key, error: ApiError) -> bool:
        """False if `error` says that the cache is behind, which is mended here; else raises it."""
        if not (error.not_found or error.conflict):
            raise self._failed(verb, key, key.kind, key.name, error) from None
        self._observer.refresh(key.kind, key.namespace, key.name)
        return False

    def _failed(self, verb: Verb, key: Key, kind: Kind, name: str, error: ApiError) -> ApiError:
        if error.passing or error.conflict:  # what is refused is counted where the refusal is told
            metrics.WRITE_FAILURES.labels(verb, kind.plural, error.reason).inc()
        if error.outcome_unknown:
            with self._lock:
                self._unresolved.setdefault(key, set()).add((kind, name))
        return error


def _check_owner(kind: Kind, found: Entry[Any] | None, name: str, owner: str | None) -> None:
    if found is not None and owner is not None and found.owner != owner:
        raise TakenError(
            f"{kind.name} {found.namespace}/{name} exists and is not this pool's; "
            f"delete it (kubectl delete {kind.plural} -n {found.namespace} {name}) or rename the pool"
        )
