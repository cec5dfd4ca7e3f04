"""Keeps a `Cache` equal to what the API server has: a paged list, then a watch from there, for ever.

The rules are those of Kubernetes' "Efficient detection of changes": bookmarks are asked for, 410 Gone leads
to a new list, and a new list is compared with what was known, so that an object that went away while nobody
watched goes away here. A watch that ends soon after it began, and a call that fails, are followed by a
growing pause.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from vernal_operator import metrics, nesting
from vernal_operator.client import ApiError, Client, Watch
from vernal_operator.observe.cache import Cache, Entry
from vernal_operator.observe.views import Meta, Raw, Reader

log = logging.getLogger(__name__)
T = TypeVar("T")

PAGE = 500
WATCH_SECONDS = (240, 360)  # asked of the server, at random, so that watches do not all end together
LONG_LIVED_SECONDS = 5.0
PAUSE_SECONDS = (0.1, 20.0)


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = "0"
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: Meta


class _Failure(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


_PAGE: Callable[[bytes], _Page] = nesting.decoder(_Page)
_EVENT: Callable[[bytes], _Event] = nesting.decoder(_Event)
_BOOKMARK: Callable[[msgspec.Raw], _Bookmark] = nesting.decoder(_Bookmark)
_FAILURE: Callable[[msgspec.Raw], _Failure] = nesting.decoder(_Failure)

_NEXT_STEP = {
    401: "check the service account's token, or the kubeconfig",
    403: "grant list and watch on it (the chart's ClusterRole does)",
    404: "install the CRDs: `vernal-operator crds | kubectl apply --server-side -f -`, or the chart",
}


class Informer(threading.Thread, Generic[T]):
    """One thread that follows one kind. `synced` is set once the first list is complete."""

    def __init__(
        self,
        client: Client,
        reader: Reader[T],
        cache: Cache[T],
        *,
        namespace: str | None,
        silence: float,
        selector: str = "",
    ) -> None:
        """`silence`: see `Settings.watch_silence`."""
        super().__init__(name=f"informer-{reader.kind.plural}", daemon=True)
        self.synced = threading.Event()
        self._client, self._reader, self._cache = client, reader, cache
        self._kind, self._namespace, self._silence = reader.kind, namespace, silence
        self._query = {"labelSelector": selector} if selector else {}
        self._object: Callable[[msgspec.Raw], Raw] = nesting.decoder(reader.raw)
        self._version: str | None = None  # where the watch goes on; None: list first
        self._failures = 0
        self._stopped = threading.Event()
        self._open: Watch | None = None

    def stop(self) -> None:
        self._stopped.set()
        if self._open is not None:
            self._open.close()

    def run(self) -> None:
        while not self._stopped.is_set():
            pause = self._once()
            if pause:
                self._stopped.wait(pause)

    def _once(self) -> float:
        """A list if one is due, then one watch. Returns how long to wait before the next, in seconds."""
        started, why, asked = time.monotonic(), "closed", None
        try:
            if self._version is None:
                self._version = self._list()
                self.synced.set()
            started = time.monotonic()
            self._watch()
        except ApiError as error:
            asked = error.retry_after
            why = self._failed(error)
        except Exception:
            # A bug, or an answer that is not Kubernetes'. The cache may be wrong now: start from a list.
            why, self._version = "failed", None
            log.exception("informer of %s failed; it starts anew", self._kind.plural)
        metrics.WATCH_ENDS.labels(self._kind.plural, why).inc()
        if time.monotonic() - started >= LONG_LIVED_SECONDS:
            self._failures = 0
        first, longest = PAUSE_SECONDS
        grown: float = min(longest, first * 2 ** min(self._failures, 16))
        self._failures += 1
        return max(asked or 0.0, grown * random.uniform(0.5, 1.0))  # noqa: S311

    def _failed(self, error: ApiError) -> str:
        if self._stopped.is_set():
            return "closed"
        if error.expired:
            log.info("watch on %s expired; listing again", self._kind.plural)
            self._version = None
            return "expired"
        hint = _NEXT_STEP.get(error.status, "it is tried again")
        level = logging.WARNING if error.passing else logging.ERROR
        log.log(level, "%s (%s); %s", error, error.reason, hint)
        return "failed"

    # -- list ---

    def _list(self) -> str:
        entries: list[Entry[T]] = []
        query = {**self._query, "limit": str(PAGE)}
        while True:
            page = _PAGE(self._client.list_page(self._kind, self._namespace, query))
            for item in page.items:
                entry = self._reader.entry(self._object(item))
                if entry is not None:
                    entries.append(entry)
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        version = page.metadata.resource_version
        self._cache.listed(entries, int(version))
        metrics.LISTS.labels(self._kind.plural).inc()
        log.debug("listed %d %s at %s", len(entries), self._kind.plural, version)
        return version

    # -- watch ---

    def _watch(self) -> None:
        assert self._version is not None
        query = {
            **self._query,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311
        }
        with self._client.watch(self._kind, self._namespace, query, self._silence) as watch:
            self._open = watch
            try:
                for line in watch:
                    if self._stopped.is_set():
                        return
                    self._take(_EVENT(line))
            finally:
                self._open = None

    def _take(self, event: _Event) -> None:
        if event.type == "ERROR":
            failure = _FAILURE(event.object)
            self._version = None  # whatever it was, a list is a sound start
            message = f"watch {self._kind.plural}: {failure.reason}: {failure.message}"
            raise ApiError(failure.code or 500, failure.reason or "WatchError", message)
        if event.type == "BOOKMARK":
            self._version = _BOOKMARK(event.object).metadata.resource_version
            self._cache.reached(int(self._version))
            return
        raw = self._object(event.object)
        meta = raw.metadata
        entry = None if event.type == "DELETED" else self._reader.entry(raw)
        if entry is not None:
            self._cache.seen(entry)
        else:
            self._cache.gone(meta.namespace, meta.name, int(meta.resource_version))
        # Only now: a failure above must not skip the event.
        self._version = meta.resource_version
