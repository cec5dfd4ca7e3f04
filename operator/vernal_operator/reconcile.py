"""One entry for all that happens: observe, plan, act. Level-triggered: what caused it does not matter."""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from vernal_contract import orphans

from vernal_operator import metrics
from vernal_operator.act.actor import Actor, Outcome
from vernal_operator.act.events import Recorder
from vernal_operator.act.writer import Writer
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import POOLS, Key
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.references import References
from vernal_operator.observe.snapshot import checkpoint_snapshot, pool_snapshot, targets
from vernal_operator.observe.starts import Starts
from vernal_operator.observe.workers import Workers
from vernal_operator.plan import plan, plan_checkpoint, renewal, warm
from vernal_operator.plan.timeline import Timeline

log = logging.getLogger(__name__)

PAUSE_SECONDS = (0.2, 60.0)  # after a failure: the first and the longest
AGAIN_SECONDS = 0.01  # after a write
BURST_ROUNDS = 20  # reconciles in a row that may write at full speed;
CALM_SECONDS = 0.2  # from then on there is a pause after each, so that no plan can write without end at full speed


class Reconciler:
    """Brings one key at a time closer to what is wanted. Thread-safe for different keys."""

    def __init__(
        self,
        client: Client,
        observer: Observer,
        workers: Workers,
        references: References,
        enqueue: Callable[[Key], None],
        trace: Callable[[Timeline, str], None] | None = None,
    ) -> None:
        """`enqueue` is told of keys that are due because a worker answered; `trace`: see `Starts`."""
        self._client, self._observer, self._workers, self._enqueue = client, observer, workers, enqueue
        self._references = references
        self._writer, self._recorder = Writer(client, observer), Recorder(client)
        self._actor = Actor(self._writer, self._recorder)
        self._starts = Starts(trace)
        self._lock = threading.Lock()
        self._uids: dict[Key, str] = {}
        self._looked: dict[Key, float] = {}  # at pools, first
        self._failures: dict[Key, int] = {}  # in a row
        self._rounds: dict[Key, int] = {}  # in a row that wrote something

    def reconcile(self, key: Key) -> "Due":
        """One round. Returns when the next one is due.

        Never raises: what goes wrong is logged, counted, and tried again after a growing pause.
        """
        started, result = time.monotonic(), "failed"
        try:
            result, due = self._round(key)
            self._failures.pop(key, None)
        except _RetryError as retry:
            due = self._pause(key, retry.after)
        except ApiError as error:
            log.warning("%s: %s; it is tried again", key, error)
            due = self._pause(key, error.retry_after)
        except Exception:
            log.exception("%s: a bug in Vernal, please report it; the object is left as it is for now", key)
            due = self._pause(key, None)
        metrics.RECONCILES.labels(key.kind.name, result).inc()
        metrics.RECONCILE_SECONDS.labels(key.kind.name).observe(time.monotonic() - started)
        return due

    def _round(self, key: Key) -> "tuple[str, Due]":
        self._writer.resolve(key)
        planned = self._pool(key) if key.kind is POOLS else self._checkpoint(key)
        if planned is None:
            self._forget(key)
            return "settled", Due(None)
        outcome, requeue_after = planned
        if outcome.errors:
            raise _RetryError(outcome.retry_after)
        if outcome.writes:
            rounds = self._rounds[key] = self._rounds.get(key, 0) + 1
            calm = rounds > BURST_ROUNDS
            return "changed", Due(CALM_SECONDS if calm else AGAIN_SECONDS, not_before=calm)
        self._rounds.pop(key, None)
        moments = [m for m in (requeue_after, outcome.waiting, outcome.retry_refused) if m is not None]
        return "settled" if outcome.retry_refused is None else "refused", Due(min(moments, default=None))

    def _pool(self, key: Key) -> tuple[Outcome, float | None] | None:
        uid = self._uid(key)
        if uid is None:
            return None
        found = pool_snapshot(self._observer, self._references.beliefs, key, time.time(), self._recorder.announced(uid))
        if found is None:
            return None
        since = self._looked.setdefault(key, found.now)
        snapshot = replace(found, refused=self._actor.refused(key), looked_since=since)
        self._starts.look(key, snapshot)
        decisions = plan(snapshot)
        outcome = self._actor.pool(
            key, snapshot.pool.uid, decisions, lambda refused: plan(replace(snapshot, refused=refused))
        )
        if outcome.told and "rejected" in (decisions.status or {}) and "rejected" not in snapshot.pool.status:
            metrics.ROLLBACKS.labels(key.namespace, key.name).inc()
        ended = renewal.ended(snapshot.pool.status, decisions.status)
        if outcome.told and ended is not None:
            metrics.RENEWALS.labels(key.namespace, key.name, ended).inc()
        if decisions.poll:
            self._workers.ask(targets(self._observer, key, decisions.poll), lambda: self._answered(key))
        return outcome, decisions.requeue_after

    def _checkpoint(self, key: Key) -> tuple[Outcome, float | None] | None:
        uid = self._uid(key)
        if uid is None:
            return None
        found = checkpoint_snapshot(
            self._observer, self._references, self._client, key, time.time(), self._recorder.announced(uid)
        )
        if found is None:
            return None
        goes = found.namespace_terminating or self._actor.namespace_goes(key)
        snapshot = replace(found, refused=self._actor.refused(key), namespace_terminating=goes)
        if snapshot.job is not None and snapshot.job.succeeded and snapshot.checkpoint.deletion_time is not None:
            lost = orphans.decode(snapshot.job.said)
            claim = snapshot.checkpoint.spec.storage.claim_name
            if claim is not None:  # what else is in a bucket is other clusters' as well
                metrics.ORPHANS.labels(key.namespace, claim).set(0 if lost is None else lost.count)
        decisions = plan_checkpoint(snapshot)
        outcome = self._actor.checkpoint(
            key,
            snapshot.checkpoint.uid,
            decisions,
            lambda refused: plan_checkpoint(
                replace(
                    snapshot,
                    refused=refused,
                    # An operator of one namespace may not read it, and is told only so. At once: its role goes, too.
                    namespace_terminating=snapshot.namespace_terminating or self._actor.namespace_goes(key),
                )
            ),
        )
        if not outcome.errors and snapshot.caches is not None:
            removed = {ref.uid for ref in decisions.remove}
            words = [warm.of_job(job) for job in snapshot.caches.fetches if job.uid in removed]
            for word in words:
                if word is not None:
                    metrics.PREFETCHES.labels(word.reason).inc()
        return outcome, decisions.requeue_after

    def _answered(self, key: Key) -> None:
        """Workers of a pool were asked."""
        for due in self._references.answered(key):
            self._enqueue(due)

    def _uid(self, key: Key) -> str | None:
        found = self._observer.cache(key.kind).get(key.namespace, key.name)
        before = self._uids.get(key)
        if before is not None and (found is None or found.uid != before):
            self._recorder.forget(before)
        if found is None:
            self._uids.pop(key, None)
            return None
        self._uids[key] = found.uid
        return found.uid

    def _forget(self, key: Key) -> None:
        self._rounds.pop(key, None)
        self._looked.pop(key, None)
        self._references.forget(key)
        self._writer.forget(key)
        self._actor.forget(key)
        self._observer.forget(key)
        self._starts.forget(key)
        if key.kind is POOLS:
            metrics.forget_pool(key.namespace, key.name)

    def _pause(self, key: Key, asked: float | None) -> "Due":
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        first, longest = PAUSE_SECONDS
        grown: float = min(longest, first * 2 ** min(16, failures - 1))
        return Due(max(asked or 0.0, grown * random.uniform(0.5, 1.0)), not_before=asked is not None)  # noqa: S311


class Due(NamedTuple):
    """When a key is to be looked at next.

    Attributes:
        seconds: from now; None if only an event makes it due.
        not_before: events do not make it due earlier.
    """

    seconds: float | None
    not_before: bool = False


class _RetryError(Exception):
    """Some of the writes failed; they were logged already."""

    def __init__(self, after: float | None) -> None:
        super().__init__()
        self.after = after
