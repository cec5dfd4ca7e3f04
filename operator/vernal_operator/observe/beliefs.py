"""What is believed of a worker's answer once it is known whose it is.

An identity that is the digest of its inputs proves nothing of who sends it: the inputs stand in each VLLMCheckpoint. So
they are compared with what the pod was made with, which its pool's ControllerRevision says. A worker that cannot be
what it says counts for no checkpoint, like one whose digests are wrong.
"""

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec
from vernal_contract import claims, config, decoding
from vernal_contract.state import WorkerState

from vernal_operator import metrics
from vernal_operator.build.pod import worker_config
from vernal_operator.build.revision import revision_name
from vernal_operator.observe.answers import stranger
from vernal_operator.observe.cache import Entry
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.views import SeenPod
from vernal_operator.observe.workers import Answer, Workers
from vernal_operator.plan.revision import revision

log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")

_REMEMBERED = 4096
"""Verdicts, and configurations, that are kept: each is about all pods of a revision."""
_NAMED = 3
"""Fields that a doubt names."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What a pod was made with. `signs`: its worker has a key to sign artifacts with."""

    config: config.WorkerConfig
    signs: bool


class _Checkpoint(msgspec.Struct, rename="camel"):
    signing_key: object = None


class _Spec(msgspec.Struct):
    """Of the spec that a ControllerRevision keeps."""

    checkpoint: _Checkpoint


class Beliefs:
    """The last answers of pods, as far as they are believed. Thread-safe."""

    def __init__(self, observer: Observer, workers: Workers) -> None:
        self._observer, self._workers = observer, workers
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, str], _Made] = OrderedDict()
        self._doubts: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def answer(self, entry: Entry[SeenPod]) -> Answer | None:
        """The last answer of a pod's container; None if it was not asked yet."""
        answer = self._workers.answer(entry.uid, entry.view.view.restarts)
        if answer is None or answer.worker is None or answer.worker.identity is None:
            return answer
        doubt = self._doubt(entry, answer.worker)
        return replace(answer, worker=stranger(answer.worker), doubt=doubt) if doubt else answer

    def user(self, entry: Entry[SeenPod]) -> str:
        """On whose behalf a pod's worker uses what is in the store (`build.pod.store_user`); "" if it is not known."""
        made = self._of(entry)
        return "" if made is None else made.config.checkpoint.user

    def _doubt(self, entry: Entry[SeenPod], state: WorkerState) -> str:
        rev = entry.view.view.revision
        key = (entry.owner, rev, state.identity or "")
        with self._lock:
            known = self._doubts.get(key)
        if known is not None:
            return known
        made = self._of(entry)
        if made is None or state.identity_inputs is None:
            return f"no ControllerRevision says what pods of revision {rev!r} are made of"  # which may come
        found = claims.contradictions(state.identity_inputs, made.config, signs=made.signs)
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        doubt = "; ".join(found[:_NAMED]) + more
        if self._remember(self._doubts, key, doubt) and doubt:
            metrics.STATE_READS.labels("doubted").inc()
            log.warning(
                "pod %s/%s says that it is what its pool did not make: %s; it counts for no checkpoint: look into the "
                "pod, and replace it", entry.namespace, entry.name, doubt,
            )  # fmt: skip
        return doubt

    def _of(self, entry: Entry[SeenPod]) -> _Made | None:
        rev = entry.view.view.revision
        key = (entry.owner, rev)
        with self._lock:
            known = self._made.get(key)
        if known is None and (known := self._read(entry, rev)) is not None:
            self._remember(self._made, key, known)
        return known

    def _read(self, entry: Entry[SeenPod], rev: str) -> _Made | None:
        pool = self._observer.pools.get(entry.namespace, entry.group)
        if pool is None or pool.uid != entry.owner:
            return None
        kept = self._observer.revisions.get(entry.namespace, revision_name(pool.name, rev))
        if kept is not None and kept.owner == pool.uid and kept.view.revision == rev:
            try:
                signs = decoding.json(kept.view.spec, _Spec).checkpoint.signing_key is not None
                return _Made(config.decode(kept.view.config), signs)
            except msgspec.DecodeError:
                pass
        live = pool.view.spec
        if live is None or revision(live) != rev:
            return None
        told = worker_config(pool.name, pool.namespace, live, rev)
        return _Made(told, live.checkpoint.signing_key is not None)

    def _remember(self, known: OrderedDict[K, V], key: K, value: V) -> bool:
        """Whether it is new."""
        with self._lock:
            new = key not in known
            known[key] = value
            if len(known) > _REMEMBERED:
                known.popitem(last=False)
        return new
