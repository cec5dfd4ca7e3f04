"""Kubernetes Events: each once, under a name made of what it says, and never more of them than a trickle."""

import datetime
import hashlib
import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vernal_contract import names

from vernal_operator import metrics
from vernal_operator.client import ApiError, Client, Object
from vernal_operator.kinds import EVENTS, Key
from vernal_operator.plan.model import Event

log = logging.getLogger(__name__)

REPORTER = f"{names.GROUP}/operator"
PER_SECOND, BURST = 10.0, 100.0
AT_ONCE = 10
"""Events that one call posts at most, so that a slow API server cannot hold a reconcile for minutes."""
PAUSE_SECONDS = (1.0, 60.0)
"""After an Event that could not be posted: at first, and at most."""
REMEMBERED = 1000  # keys of one object; the oldest are forgotten, and the API server refuses their names again
_NOTE = 1024  # bytes, the API's limit
_NAME = 253


@dataclass(slots=True)
class _Said:
    """Of one object: keys of Events that are settled, those that wait, and when they may be posted."""

    settled: OrderedDict[str, None] = field(default_factory=OrderedDict)
    waiting: OrderedDict[str, Event] = field(default_factory=OrderedDict)
    failures: int = 0  # in a row
    until: float = 0.0


class Recorder:
    """Emits Events and remembers which. Thread-safe for different objects."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._lock = threading.Lock()
        self._said: dict[str, _Said] = {}
        self._tokens, self._filled = BURST, clock()

    def announced(self, uid: str) -> frozenset[str]:
        """Keys of Events about an object that need not be decided again."""
        with self._lock:
            said = self._said.get(uid)
            return frozenset((*said.settled, *said.waiting)) if said is not None else frozenset()

    def forget(self, uid: str) -> None:
        with self._lock:
            self._said.pop(uid, None)

    def emit(self, key: Key, uid: str, events: Iterable[Event] = (), *, wait: bool = False) -> float | None:
        """Post what waits, then `events`: AT_ONCE of them at most, none with `wait`. The rest waits for the next call.

        Returns when that may be, in seconds; None if nothing waits: all is posted, was there already, or is refused for
        good.
        """
        with self._lock:
            said = self._said.setdefault(uid, _Said())
            said.waiting |= {event.key: event for event in events if event.key not in said.settled}
            while len(said.waiting) > REMEMBERED:
                said.waiting.popitem(last=False)
                metrics.EVENTS_DROPPED.labels("TooMany").inc()
            due = [] if wait or self._clock() < said.until else list(said.waiting.values())[:AT_ONCE]
        for event in due:
            if not self._take_token() or not self._post(key, uid, event, said):
                break
            with self._lock:
                del said.waiting[event.key]
                said.settled[event.key] = None
                if len(said.settled) > REMEMBERED:
                    said.settled.popitem(last=False)
        return max(AT_ONCE / PER_SECOND, said.until - self._clock()) if said.waiting else None

    def _post(self, key: Key, uid: str, event: Event, said: _Said) -> bool:
        """Whether it is settled; if not, none is posted for a while."""
        try:
            self._client.create(EVENTS, key.namespace, body(key, uid, event))
        except ApiError as error:
            if error.passing or error.webhook == "not asked":
                first, longest = PAUSE_SECONDS
                pause = min(longest, first * 2 ** min(16, said.failures))
                said.failures, said.until = said.failures + 1, self._clock() + pause
                log.warning("event %s on %s was not posted: %s; it is tried again", event.reason, key, error)
                return False
            # 409: posted before, maybe by an earlier process. In a namespace that goes away nobody reads it.
            if not (error.conflict or error.namespace_terminating):
                metrics.EVENTS_DROPPED.labels(error.reason).inc()
                log.error("event %s on %s was refused: %s; check the operator's role", event.reason, key, error)
        said.failures = 0
        return True

    def _take_token(self) -> bool:
        with self._lock:
            now = self._clock()
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
