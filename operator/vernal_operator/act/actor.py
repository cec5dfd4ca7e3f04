"""Carries decisions out, in the order that leaves the least harm if it stops halfway."""

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial

from vernal_operator import metrics
from vernal_operator.act.events import Recorder
from vernal_operator.act.refusals import STATUS, Refusals, Subject, reason
from vernal_operator.act.writer import TakenError, Writer
from vernal_operator.client import ApiError
from vernal_operator.kinds import BY_NAME, CHECKPOINTS, JOBS, PODS, POOLS, Key, Kind
from vernal_operator.plan.model import CheckpointDecisions, Decisions, DeletePod, Event, Manifest, ObjectRef, Refused

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What became of a plan.

    Attributes:
        writes: calls that changed something, or found that the cache was behind: plan again.
        errors: what failed and may go better by itself; each was logged.
        told: the status was written.
        waiting: seconds until Events that could not be posted yet may be; None if there are none.
        retry_refused: seconds until a write that is refused may be tried again; None if none is.
    """

    writes: int = 0
    errors: list[ApiError] = field(default_factory=list)
    told: bool = False
    waiting: float | None = None
    retry_refused: float | None = None

    @property
    def retry_after(self) -> float | None:
        """What the API server asked for, in seconds."""
        return max((e.retry_after for e in self.errors if e.retry_after is not None), default=None)


class Actor:
    """Carries out the decisions about pools and checkpoints. Raises nothing but bugs; failures are in the outcome.

    A decision is told after it was carried out: `again` decides once more from what is known then, which is the same
    snapshot and what the API server refused.
    """

    def __init__(self, writer: Writer, recorder: Recorder, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer, self._recorder = writer, recorder
        self._refusals = Refusals(clock)

    def refused(self, key: Key) -> tuple[Refused, ...]:
        """What of the decisions about a pool or checkpoint is refused."""
        return self._refusals.told(key)

    def namespace_goes(self, key: Key) -> bool:
        """Whether a write about a pool or checkpoint was refused because its namespace goes away."""
        return self._refusals.namespace_goes(key)

    def forget(self, key: Key) -> None:
        self._refusals.forget(key)

    def pool(
        self, key: Key, uid: str, decisions: Decisions, again: Callable[[tuple[Refused, ...]], Decisions]
    ) -> Outcome:
        """`uid` is the pool's."""
        do, writer = self._steps(key, uid), self._writer
        for manifest in decisions.apply:
            kind = BY_NAME[manifest["kind"]]
            do(Subject.of("apply", kind.name, manifest), partial(writer.apply, key, kind, manifest, uid))
        for manifest in decisions.create_checkpoints:
            do(
                Subject.of("create", CHECKPOINTS.name, manifest),
                partial(writer.create, key, CHECKPOINTS, manifest, None),
            )
        if decisions.replicas is not None:
            subject = Subject("patch", f"{POOLS.name}/scale", key.name, decisions.replicas)
            do(subject, partial(self._scale, do, key, decisions.replicas, decisions.version))
        for pod in decisions.delete:
            do(_deletion(PODS, pod.name, pod.uid), partial(self._delete, do, key, pod))
        do.remove(decisions.remove)
        for manifest in decisions.create:
            do(Subject.of("create", PODS.name, manifest), partial(writer.create, key, PODS, manifest, uid))
        if do.refused_otherwise():
            decisions = again(self.refused(key))
        do.report(decisions.status, decisions.events)
        return do.over()

    def _delete(self, do: "_Steps", key: Key, pod: DeletePod) -> None:
        if self._writer.delete(key, PODS, pod.name, pod.uid, pod.resource_version, pod.reason):
            do.said.append(Event("Normal", pod.reason, f"deleting pod {pod.name}", f"delete/{pod.uid}"))

    def _scale(self, do: "_Steps", key: Key, replicas: int, version: int) -> None:
        if not self._writer.scale(key, replicas, version):
            return
        if replicas:
            reason, text = "ScaledFromZero", "the pool was at zero and may not go there any more"
        else:
            reason = "ScaledToZero"
            text = "no worker had a request for spec.autoscaling.idleSeconds: the pool goes to zero"
        do.said.append(Event("Normal", reason, text, f"zero/{time.time_ns()}"))

    def checkpoint(
        self,
        key: Key,
        uid: str,
        decisions: CheckpointDecisions,
        again: Callable[[tuple[Refused, ...]], CheckpointDecisions],
    ) -> Outcome:
        """`uid` is the checkpoint's."""
        do, writer = self._steps(key, uid), self._writer
        do.remove(decisions.remove)
        for manifest in decisions.create:
            do(Subject.of("create", JOBS.name, manifest), partial(writer.create, key, JOBS, manifest, uid))
        ends = self._ends(key, decisions)
        if do.refused_otherwise(*(subject for subject, _ in ends)):
            decisions = again(self.refused(key))
        outcome = do.report(decisions.status, decisions.events)
        for subject, step in self._ends(key, decisions):  # last: after it the object is gone
            if not outcome.errors:
                do(subject, step)
        return do.over()

    def _ends(self, key: Key, decisions: CheckpointDecisions) -> list[tuple[Subject, Callable[[], object]]]:
        """Writes after which a checkpoint may be gone."""
        ends: list[tuple[Subject, Callable[[], object]]] = []
        if (ref := decisions.delete) is not None:
            kind = BY_NAME[ref.kind]
            ends.append(
                (_deletion(kind, ref.name, ref.uid), partial(self._writer.delete, key, kind, ref.name, ref.uid))
            )
        if decisions.finalizers is not None:
            subject = Subject("patch", key.kind.name, key.name, decisions.finalizers)
            ends.append((subject, partial(self._writer.finalizers, key, decisions.finalizers)))
        return ends

    def _steps(self, key: Key, uid: str) -> "_Steps":
        return _Steps(key, uid, self._writer, self._recorder, self._refusals)


class _Steps:
    """Runs writes one after the other, each for itself: only an API server that is not there ends all, but the status,
    which is tried whatever happened before.
    """

    def __init__(self, key: Key, uid: str, writer: Writer, recorder: Recorder, refusals: Refusals) -> None:
        self.outcome = Outcome()
        self.said: list[Event] = []  # Events about the writes themselves
        self._key, self._uid = key, uid
        self._writer, self._recorder, self._refusals = writer, recorder, refusals
        self._before = refusals.told(key), refusals.namespace_goes(key)
        self._status = Subject("apply", f"{key.kind.name}/{STATUS}", key.name, STATUS)
        self._wanted: set[Subject] = {self._status}
        self._failed: set[Hashable] = set()
        self._down = False

    def __call__(self, subject: Subject, step: Callable[[], object]) -> bool:
        """Run one write, unless the API server is down, or one alike has failed or was refused a moment ago. Whether it
        went through.
        """
        self._wanted.add(subject)
        if self._down or subject.alike in self._failed or self._refusals.holds(self._key, subject):
            return False
        try:
            step()
        except TakenError as error:
            self._refused(subject, error)
        except ApiError as error:
            if error.passing or error.conflict:
                self._down = error.unavailable
                self._failed.add(subject.alike)
                self.outcome.errors.append(error)
                log.warning("%s: %s; it is tried again", self._key, error)
            else:
                self._refused(subject, error)
        else:
            self._refusals.accepted(self._key, subject)
            self.outcome.writes += 1
            return True
        return False

    def remove(self, refs: Iterable[ObjectRef]) -> None:
        for ref in refs:
            kind = BY_NAME[ref.kind]
            self(_deletion(kind, ref.name, ref.uid), partial(self._writer.delete, self._key, kind, ref.name, ref.uid))

    def refused_otherwise(self, *later: Subject) -> bool:
        """Whether something else is refused than was before; what is not wanted any more, `later` either, is not."""
        self._refusals.keep(self._key, self._wanted | set(later))
        return (self._refusals.told(self._key), self._refusals.namespace_goes(self._key)) != self._before

    def report(self, status: Manifest | None, events: tuple[Event, ...]) -> Outcome:
        """The status, then the Events: those of the plan only if its status was written."""
        self._down = False
        done: list[bool] = []
        if status is None:
            self._refusals.accepted(self._key, self._status)
        else:
            self(self._status, lambda: done.append(self._writer.status(self._key, status)))
        self.outcome.told = done == [True]
        due = (*events, *self.said) if status is None or self.outcome.told else self.said
        self.outcome.waiting = self._recorder.emit(self._key, self._uid, due, wait=self._down)
        return self.outcome

    def over(self) -> Outcome:
        """What became of it all."""
        self.outcome.retry_refused = self._refusals.next(self._key)
        return self.outcome

    def _refused(self, subject: Subject, error: ApiError | TakenError) -> None:
        kind = BY_NAME[subject.kind.partition("/")[0]]
        metrics.WRITE_FAILURES.labels(subject.verb, kind.plural, reason(error)).inc()
        new = self._refusals.refused(self._key, subject, error)
        if new is None:
            log.debug("%s: still refused: %s", self._key, error)
            return
        log.warning("%s: %s: %s; it is tried again ever more seldom", self._key, new.reason, error)
        if subject == self._status:  # the one refusal that no condition can tell
            text = f"{subject.kind} cannot be written: {new.sentence}"
            self.said.append(Event("Warning", new.reason, text, f"status/{new.reason}"))


def _deletion(kind: Kind, name: str, uid: str) -> Subject:
    return Subject("delete", kind.name, name, uid)
