"""Kubernetes Events: each once, under a name made of what it says, and never more of them than a trickle."""

import datetime
import hashlib
import logging
import socket
import threading
import time
from collections import OrderedDict

from vernal_contract import names

from vernal_operator import metrics
from vernal_operator.client import ApiError, Client, Object
from vernal_operator.kinds import EVENTS, Key
from vernal_operator.plan.model import Event

log = logging.getLogger(__name__)

REPORTER = f"{names.GROUP}/operator"
PER_SECOND, BURST = 10.0, 100.0
REMEMBERED = 1000  # keys of one object; the oldest are forgotten, and the API server refuses their names again
_NOTE = 1024  # bytes, the API's limit
_NAME = 253


class Recorder:
    """Emits Events and remembers which. Thread-safe."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._announced: dict[str, OrderedDict[str, None]] = {}
        self._tokens, self._filled = BURST, time.monotonic()

    def announced(self, uid: str) -> frozenset[str]:
        with self._lock:
            return frozenset(self._announced.get(uid, ()))

    def forget(self, uid: str) -> None:
        with self._lock:
            self._announced.pop(uid, None)

    def emit(self, key: Key, uid: str, event: Event) -> bool:
        """Post it. True if it is settled: posted, there already, or refused for good. False to try again
        later.
        """
        if event.key in self.announced(uid):
            return True
        if not self._take_token():
            return False
        try:
            self._client.create(EVENTS, key.namespace, body(key, uid, event))
        except ApiError as error:
            if error.passing:
                log.warning("event %s on %s was not posted: %s; it is tried again", event.reason, key, error)
                return False
            # 409: posted before, maybe by an earlier process. In a namespace that goes away nobody reads it.
            if not (error.conflict or error.namespace_terminating):
                metrics.EVENTS_DROPPED.labels(error.reason).inc()
                log.error("event %s on %s was refused: %s; check the operator's role", event.reason, key, error)
        with self._lock:
            keys = self._announced.setdefault(uid, OrderedDict())
            keys[event.key] = None
            if len(keys) > REMEMBERED:
                keys.popitem(last=False)
        return True

    def _take_token(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._tokens = min(BURST, self._tokens + (now - self._filled) * PER_SECOND)
            self._filled = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


def body(key: Key, uid: str, event: Event) -> Object:
    """The Event object. Its name depends on the object and the event's key alone, so it is made only once."""
    digest = hashlib.sha256(f"{uid}/{event.key}".encode()).hexdigest()[:16]
    note = event.message.encode()
    if len(note) > _NOTE:
        note = note[: _NOTE - 3] + b"..."
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.name,
        "metadata": {"namespace": key.namespace, "name": f"{key.name[: _NAME - 17]}.{digest}"},
        "eventTime": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": REPORTER,
        "reportingInstance": socket.gethostname()[:128],
        "action": "Reconcile",
        "type": event.type,
        "reason": event.reason,
        "note": note.decode(errors="ignore"),
        "regarding": {
            "apiVersion": key.kind.api_version,
            "kind": key.kind.name,
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
        },
    }
