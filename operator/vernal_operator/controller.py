"""The running operator: informers feed a queue, threads take keys from it and reconcile them."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import REGISTRY

from vernal_operator import metrics
from vernal_operator.act.events import Recorder
from vernal_operator.client import Client
from vernal_operator.kinds import LEASES, PODS, POOLS, Key, Kind
from vernal_operator.lease import Leadership, LeaseSettings
from vernal_operator.observe.cache import Entry
from vernal_operator.observe.inventory import Inventory
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.pool_metrics import PoolMetrics
from vernal_operator.observe.references import References
from vernal_operator.observe.snapshot import goes_to_zero
from vernal_operator.observe.traces import Traces
from vernal_operator.observe.wakers import Wakers
from vernal_operator.observe.workers import Workers
from vernal_operator.plan.model import Event
from vernal_operator.reconcile import Reconciler
from vernal_operator.settings import Settings
from vernal_operator.tracing import Tracer
from vernal_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

STUCK_SECONDS = 300.0  # longer than a reconcile that still gets somewhere is without the end of a call


class Controller:
    """`start`, then `stop`. In between it works in threads of its own, and no failure ends it.

    Nothing is watched before the lease is held: what an operator that stands by had seen would be behind the writes of
    the one that leads. `deposed` is called when another operator took over, which ends this one.
    """

    def __init__(
        self,
        client: Client,
        settings: Settings,
        lease: LeaseSettings,
        deposed: Callable[[str], None],
        tracer: Tracer | None = None,
    ) -> None:
        self._leadership = Leadership(client, lease, won=self._led, lost=deposed)
        client.guard(lambda: self._leadership.seconds_left)
        client.listen(self._lives)
        self._client, self._lease = client, lease
        self._queue: WorkQueue[Key] = WorkQueue()
        self._workers = Workers(settings.admin_port)
        wakers = (
            Wakers(client, *settings.waker, self._wakers_changed, silence=settings.watch_silence)
            if settings.waker
            else None
        )
        self._observer = Observer(client, settings, self._changed, wakers)
        self._references = References(self._observer, self._workers)
        self._traces = Traces(tracer, wakers) if tracer is not None else None
        self._reconciler = Reconciler(
            client,
            self._observer,
            self._workers,
            self._references,
            self._queue.add,
            self._traces.tell if self._traces is not None else None,
        )
        self._threads = [
            threading.Thread(target=self._work, name=f"reconcile-{slot}", daemon=True)
            for slot in range(settings.threads)
        ]
        self._busy: dict[int, tuple[Key, float]] = {}  # by thread; since when, or since its last call ended
        self._won = threading.Event()
        self._synced = threading.Event()
        self._stopped = threading.Event()

    def start(self) -> None:
        self._leadership.start()

    def stop(self, timeout: float = 20.0) -> None:
        """Take no new key, let reconciles under way end, and give up on what is not over in `timeout`
        seconds.
        """
        self._stopped.set()
        self._queue.close()
        self._observer.stop()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        # A reconcile that still runs may write: then the lease is left to run out.
        self._leadership.stop(release=not any(thread.is_alive() for thread in self._threads))
        self._workers.close()
        if self._traces is not None:
            self._traces.close()

    @property
    def ready(self) -> bool:
        """Everything was listed once, and reconciling has begun; or another operator leads, and this one stands by."""
        return self._synced.is_set() or self.stands_by

    @property
    def stands_by(self) -> bool:
        return self._leadership.knows and not self._won.is_set()

    def problems(self) -> list[str]:
        """Why this process should be restarted; empty if it should not."""
        now = time.monotonic()
        stuck = [
            f"reconciling {key}: no sign of life for {now - since:.0f} s"
            for key, since in list(self._busy.values())
            if now - since > STUCK_SECONDS
        ]
        ended = [thread.name for thread in self._threads if self._synced.is_set() and not thread.is_alive()]
        dead = self._observer.dead if self._won.is_set() else []
        if self._won.is_set() and not self._leadership.alive and not self._stopped.is_set():
            ended.append("lease")
        return stuck + [f"{name} ended" for name in ended + dead]

    # -- threads ---

    def _led(self) -> None:
        """The lease is held for the first time."""
        self._observer.start()
        self._won.set()
        REGISTRY.register(Inventory(self._observer))
        REGISTRY.register(PoolMetrics(self._observer, self._workers))
        threading.Thread(target=self._open, name="opener", daemon=True).start()

    def _open(self) -> None:
        """Begin to reconcile once the caches are complete: a plan from half of them would be wrong."""
        lease = self._lease
        elected = Event("Normal", "LeaderElected", f"{lease.identity} leads", f"leader/{lease.identity}")
        Recorder(self._client).emit(Key(LEASES, lease.namespace, lease.name), "", (elected,))
        started = said = time.monotonic()
        while (missing := self._observer.unsynced) and not self._stopped.wait(0.02):
            if time.monotonic() - said > 10:
                said = time.monotonic()
                log.warning("after %.0f s still waiting for the first list of: %s", said - started, ", ".join(missing))
        if self._stopped.is_set():
            return
        log.info("all kinds listed in %.2f s; reconciling", time.monotonic() - started)
        for thread in self._threads:
            thread.start()
        self._synced.set()

    def _work(self) -> None:
        me = threading.get_ident()
        while (key := self._queue.get()) is not None and self._leadership.wait(self._stopped):
            self._busy[me] = (key, time.monotonic())
            try:
                due = self._reconciler.reconcile(key)
                if due.seconds is not None:
                    (self._queue.hold if due.not_before else self._queue.add_after)(key, due.seconds)
            finally:
                del self._busy[me]
                self._queue.done(key)

    def _lives(self) -> None:
        """A call to the API server has ended in this thread: on a slow one, many of them make a long reconcile."""
        me = threading.get_ident()
        if me in self._busy:
            self._busy[me] = (self._busy[me][0], time.monotonic())

    # -- what is due when something changed ---

    def _wakers_changed(self) -> None:
        for pool in self._observer.pools.entries():
            if goes_to_zero(pool.view):
                self._queue.add(Key(POOLS, pool.namespace, pool.name))

    def _changed(self, kind: Kind, old: Entry[Any] | None, new: Entry[Any] | None) -> None:
        metrics.CACHED.labels(kind.plural).set(len(self._observer.cache(kind)))
        for key in self._references.changed(kind, old, new):
            self._queue.add(key)
        if kind is PODS and old is not None and (new is None or new.uid != old.uid):
            self._workers.forget(old.uid)
