"""One active operator at a time: a coordination.k8s.io Lease, by the rules of client-go's leader election.

`kubernetes.leaderelection` is not used: it goes by the wall clock, which jumps; its calls have no time-out, so that
a leader whose call hangs never learns that it is none; it keeps the lease when the process ends.

A holder may write until `seconds` after it *began* the last renewal that succeeded. Another operator takes the lease
only after it has watched it unchanged for as long, by its own clock, and so later. Wall clocks are never compared.
"""

import datetime
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vernal_operator import metrics
from vernal_operator.client import ApiError, Client, Object
from vernal_operator.kinds import LEASES

log = logging.getLogger(__name__)

TRIES = 3
"""Renewals that fit into the time for which a lease is held."""


def clock() -> float:
    """Seconds of a clock that never jumps, and that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME if hasattr(time, "CLOCK_BOOTTIME") else time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """Which Lease, and who asks for it.

    Attributes:
        identity: unique among operators that run at the same time; the same again if one is restarted in place, which
            then need not wait.
        seconds: how long the lease is held after each renewal.
    """

    namespace: str
    name: str
    identity: str
    seconds: float = 15.0

    def __str__(self) -> str:
        return f"Lease {self.namespace}/{self.name}"


@dataclass(slots=True)
class _Seen:
    """The Lease as it was last seen, and since when it has looked like that."""

    version: str
    holder: str
    seconds: float
    transitions: int
    since: float


class Leadership:
    """Gets the Lease, renews it, and gives it back. In a thread of its own between `start` and `stop`.

    `won` is called once, when the lease is held for the first time; `lost` when another operator holds it after that.
    """

    def __init__(
        self, client: Client, settings: LeaseSettings, *, won: Callable[[], None], lost: Callable[[str], None]
    ) -> None:
        self._client = client.unguarded(timeout=settings.seconds / TRIES)
        self._settings, self._won, self._lost = settings, won, lost
        self._seen: _Seen | None = None
        self._until = 0.0
        self._led = False
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, release: bool) -> None:
        """End; `release`: another operator may take over at once, because this one does nothing any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.seconds)
        seen = self._seen
        if release and seen is not None and seen.holder == self._settings.identity:
            self._release(seen)
        with self._changed:
            self._until = 0.0
        metrics.LEADER.set(0)

    @property
    def seconds_left(self) -> float:
        """How long this operator may still write, if it does not renew; 0 if it may not."""
        return max(0.0, self._until - clock())

    @property
    def knows(self) -> bool:
        """The API server has answered: this operator leads, or somebody else does."""
        return self._seen is not None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def wait(self, over: threading.Event) -> bool:
        """Wait until the lease is held. False if it is over before."""
        with self._changed:
            while self.seconds_left <= 0 and not over.is_set():
                self._changed.wait(1.0)
        return not over.is_set()

    # -- the thread ---

    def _run(self) -> None:
        pause = 0.0
        while not self._sleep(pause):
            pause = self._settings.seconds / TRIES
            try:
                holder = self._try()
            except ApiError as error:
                level = logging.WARNING if error.passing or error.conflict else logging.ERROR
                log.log(level, "%s: %s; it is tried again", self._settings, error)
                pause = min(1.0, pause)
                continue
            except Exception:
                log.exception("%s: a bug in Vernal, please report it; it is tried again", self._settings)
                continue
            finally:
                metrics.LEADER.set(self.seconds_left > 0)
            if holder == self._settings.identity:
                self._hold()
            elif self._led:
                self._until = 0.0
                self._lost(holder)
                return
            else:
                pause = min(1.0, pause)  # a lease that is given back is taken soon

    def _sleep(self, seconds: float) -> bool:
        """Whether it is over."""
        with self._changed:
            if seconds and not self._stopped:
                self._changed.wait(seconds)
            return self._stopped

    def _hold(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if not self._led:
            self._led = True
            log.info("%s: %s leads", self._settings, self._settings.identity)
            self._won()

    def _try(self) -> str:
        """Take or renew the lease if it may be had. Returns who holds it. Raises ApiError."""
        began = clock()
        seen = self._seen
        if seen is None or seen.holder != self._settings.identity:
            seen = self._look()
            if seen is None:
                self._take(began, self._create())
                return self._settings.identity
            free = not seen.holder or seen.holder == self._settings.identity or began - seen.since > seen.seconds
            if not free:
                return seen.holder
            if self._led and seen.holder != self._settings.identity:
                return seen.holder or "another operator"  # it led meanwhile: what is known here is old
        try:
            self._take(began, self._write(seen))
        except ApiError as error:
            # Renewed by nobody else, so the answer to an earlier renewal was lost, or it is another's now: look.
            self._seen = None if error.conflict or error.not_found or error.outcome_unknown else self._seen
            raise
        return self._settings.identity

    def _look(self) -> _Seen | None:
        try:
            answer = self._client.get(LEASES, self._settings.namespace, self._settings.name)
        except ApiError as error:
            if not error.not_found:
                raise
            return None
        if self._seen is None or self._seen.version != answer["metadata"]["resourceVersion"]:
            self._seen = _read(answer, clock())  # after the answer, so after the holder began this renewal
        return self._seen

    def _take(self, began: float, answer: Object) -> None:
        self._seen = _read(answer, began)
        self._until = began + self._settings.seconds

    def _create(self) -> Object:
        meta = {"namespace": self._settings.namespace, "name": self._settings.name}
        body = {"apiVersion": LEASES.api_version, "kind": LEASES.name, "metadata": meta}
        return self._client.create(LEASES, self._settings.namespace, body | {"spec": self._spec(None)})

    def _write(self, seen: _Seen) -> Object:
        body = {"metadata": {"resourceVersion": seen.version}, "spec": self._spec(seen)}
        return self._client.patch(LEASES, self._settings.namespace, self._settings.name, body)

    def _spec(self, seen: _Seen | None) -> Object:
        now = _stamp()
        spec: Object = {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": max(1, round(self._settings.seconds)),
            "renewTime": now,
        }
        if seen is None or seen.holder != self._settings.identity:
            spec |= {"acquireTime": now, "leaseTransitions": 0 if seen is None else seen.transitions + 1}
        return spec

    def _release(self, seen: _Seen) -> None:
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _stamp()}
        body = {"metadata": {"resourceVersion": seen.version}, "spec": spec}
        try:
            self._client.patch(LEASES, self._settings.namespace, self._settings.name, body)
            log.info("%s: given back", self._settings)
        except ApiError as error:
            log.warning("%s could not be given back: %s; it runs out by itself", self._settings, error)


def _read(lease: Object, now: float) -> _Seen:
    spec: dict[str, Any] = lease.get("spec") or {}
    return _Seen(
        version=lease["metadata"]["resourceVersion"],
        holder=spec.get("holderIdentity") or "",
        seconds=float(spec.get("leaseDurationSeconds") or 1),
        transitions=int(spec.get("leaseTransitions") or 0),
        since=now,
    )


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
