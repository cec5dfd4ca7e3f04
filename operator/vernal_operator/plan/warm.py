"""On which nodes a checkpoint is warm: the node's cache has its files (`status.nodes`, `status.warmNodes`).

Only workers know, each what it found when it started, and once what it has put there. So this is what was last known
of a node, never a promise: whoever thaws looks for itself.

What counts is the last word about a node, by that node's own clock. It is kept when the worker is gone that said so,
also that the files are not there: an older word of a worker that is still there must not bring them back. Hence the
order in which words are heard, and how often, makes no difference.

    the files are there      a worker of this generation thawed them from there, or has put them there
    they are not             one that thawed this generation from the store did not find all of them, or could not put
                             them there
    they may not be          any worker of the namespace (its checkpoints share the cache) made room for others', or
                             found files damaged and threw them away

What a Job says that fetched them (`plan.prefetch`) is a word like a worker's. Such Jobs are gone soon, so that one made
room for the files is in the reason, for the other checkpoints to see.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vernal_contract import state
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport, StartMode

from vernal_operator.plan.model import CheckpointSnapshot, JobView, Manifest, WorkerUse
from vernal_operator.plan.own import own_checkpoint_status
from vernal_operator.plan.times import epoch, precise

MOST_NODES = 200
"""That a status holds, and that can be counted."""
AHEAD_SECONDS = 300.0
"""How far a node's clock may be ahead of the operator's: what is said of later than that is not believed yet."""
EVICTED, FETCHED, FETCHED_EVICTING = "Evicted", "Fetched", "FetchedEvicting"


@dataclass(frozen=True, slots=True)
class Word:
    """What was said of a node's cache. `time`: as in the status."""

    node: str
    cached: bool
    reason: str
    time: str

    def entry(self) -> Manifest:
        return {"name": self.node, "cached": self.cached, "reason": self.reason, "time": self.time}

    @property
    def rank(self) -> tuple[float, bool, str]:
        """The last one counts; at one moment, the one that says no."""
        return epoch(self.time), not self.cached, self.reason


def status(snapshot: CheckpointSnapshot, generation: str | None) -> Manifest:
    """The fields of the status that are about nodes."""
    caches, old = snapshot.caches, own_checkpoint_status(snapshot.checkpoint.status)
    if caches is None:
        return {}
    kept = _kept(old) if generation == old.get("generation") else []
    fetched = [word for job in caches.fetches if job.generation == generation and (word := of_job(job)) is not None]
    made_room = [word for other in caches.others for word in _losses(other)]
    words = [*kept, *_said(snapshot, caches.told, generation), *fetched, *made_room]
    last: dict[str, Word] = {}
    nodes = caches.nodes
    for word in words:
        there = nodes is None or word.node in nodes
        if there and epoch(word.time) <= snapshot.now + AHEAD_SECONDS:
            last[word.node] = max(last.get(word.node, word), word, key=lambda word: word.rank)
    told = sorted(last.values(), key=lambda word: (not word.cached, -epoch(word.time), word.node))[:MOST_NODES]
    entries = [word.entry() for word in sorted(told, key=lambda word: word.node)]
    return {"warmNodes": sum(word.cached for word in told)} | ({"nodes": entries} if entries else {})


def takes_off(use: WorkerUse, checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, by its status, is counted on a node that, by a worker's word, may not have it any more."""
    word = _loss(use)
    return word is not None and _contradicts(word, checkpoint)


def other_takes_off(other: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> bool:
    """The same, by what another checkpoint's status says of how that was fetched."""
    return any(_contradicts(word, checkpoint) for word in _losses(other))


def _contradicts(word: Word, checkpoint: Mapping[str, Any]) -> bool:
    return any(entry.node == word.node and entry.cached and word.rank > entry.rank for entry in _kept(checkpoint))


def _losses(other: Mapping[str, Any]) -> list[Word]:
    return [replace(w, cached=False, reason=EVICTED) for w in _kept(other) if w.reason == FETCHED_EVICTING]


def of_job(job: JobView) -> Word | None:
    """What a Job that fetches has come to; None while it runs. One that was killed has said nothing."""
    if job.ended is None or job.going:
        return None
    said = said_by(job)
    if said is None:
        return Word(job.node, cached=False, reason=str(CacheFill.FAILED), time=precise(job.ended))
    # By the node's clock, so that it can be compared, unless that is no clock.
    time = precise(said.told_at if abs(said.told_at - job.ended) <= AHEAD_SECONDS else job.ended)
    if said.fill is None and said.lookup == CacheLookup.HIT:
        return Word(job.node, cached=True, reason=FETCHED, time=time)
    if said.fill == CacheFill.FILLED:
        return Word(job.node, cached=True, reason=FETCHED_EVICTING if said.evicted_bytes else FETCHED, time=time)
    full = said.fill == CacheFill.FULL
    return Word(job.node, cached=False, reason=str(CacheFill.FULL if full else CacheFill.FAILED), time=time)


def said_by(job: JobView) -> NodeCacheReport | None:
    """The last words of a Job's pod."""
    return state.decode_cache(job.said) if job.said else None


def _kept(old: Mapping[str, Any]) -> list[Word]:
    return [Word(e["name"], e["cached"], e["reason"], e["time"]) for e in old.get("nodes") or []]


def _said(snapshot: CheckpointSnapshot, told: Iterable[WorkerUse], generation: str | None) -> Iterator[Word]:
    if generation is None:
        return
    own = {use.pod_uid for use in snapshot.workers}
    for use in told:
        word = _own(use, generation) if use.pod_uid in own else None
        if word is None:
            word = _loss(use)
        if word is not None:
            yield word


def _own(use: WorkerUse, generation: str) -> Word | None:
    """What a worker of the checkpoint says of this generation's files. Before its fill has ended, one that started cold
    has looked for those of another, if for any.
    """
    report, artifact = use.worker.node_cache, use.worker.artifact
    if report is None or artifact is None or artifact.generation != generation:
        return None
    if report.fill is not None:
        return _word(use, cached=report.fill == CacheFill.FILLED, reason=report.fill)
    if report.lookup is not None and use.worker.start_mode == StartMode.RESTORED:
        return _word(use, cached=report.lookup == CacheLookup.HIT, reason=report.lookup)
    return None


def _loss(use: WorkerUse) -> Word | None:
    """What a worker of whatever checkpoint has taken from the cache: nobody says whose files these were."""
    report = use.worker.node_cache
    if report is None:
        return None
    if report.evicted_bytes:
        return _word(use, cached=False, reason=EVICTED)
    return _word(use, cached=False, reason=CacheLookup.DAMAGED) if report.lookup == CacheLookup.DAMAGED else None


def _word(use: WorkerUse, *, cached: bool, reason: Any) -> Word | None:
    report = use.worker.node_cache
    if report is None or use.node is None or not report.told_at:
        return None
    return Word(use.node, cached, str(reason), precise(report.told_at))
