"""Carries decisions out, in the order that leaves the least harm if it stops halfway."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from vernal_operator.act.events import Recorder
from vernal_operator.act.writer import TakenError, Writer
from vernal_operator.client import ApiError
from vernal_operator.kinds import BY_NAME, CHECKPOINTS, JOBS, PODS, Key
from vernal_operator.plan.model import CheckpointDecisions, Decisions, DeletePod, Event, Manifest

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What became of a plan.

    Attributes:
        writes: calls that changed something, or found that the cache was behind: plan again.
        errors: what failed; each was logged and, if it will not pass by itself, told in an Event.
        waiting: an Event could not be posted yet.
    """

    writes: int = 0
    errors: list[ApiError | TakenError] = field(default_factory=list)
    waiting: bool = False

    @property
    def retry_after(self) -> float | None:
        """What the API server asked for, in seconds."""
        asked = [e.retry_after for e in self.errors if isinstance(e, ApiError) and e.retry_after is not None]
        return max(asked, default=None)


class Actor:
    """Carries out the decisions about pools and checkpoints."""

    def __init__(self, writer: Writer, recorder: Recorder) -> None:
        self._writer, self._recorder = writer, recorder

    def pool(self, key: Key, uid: str, decisions: Decisions) -> Outcome:
        """`uid` is the pool's. Raises nothing but bugs; failures are in the outcome."""
        do, writer = _Steps(key, uid, self._recorder), self._writer
        do.each(partial(writer.apply, key, BY_NAME[m["kind"]], m, uid) for m in decisions.apply)
        do.each(partial(writer.create, key, CHECKPOINTS, m, None) for m in decisions.create_checkpoints)
        do.each(partial(self._delete, do, key, pod) for pod in decisions.delete)
        do.each(partial(writer.delete, key, BY_NAME[r.kind], r.name, r.uid) for r in decisions.remove)
        do.each(partial(writer.create, key, PODS, m, uid) for m in decisions.create)
        return do.report(decisions.status, (*decisions.events, *do.said), writer)

    def _delete(self, do: "_Steps", key: Key, pod: DeletePod) -> None:
        if self._writer.delete(key, PODS, pod.name, pod.uid, pod.resource_version, pod.reason):
            do.said.append(Event("Normal", pod.reason, f"deleting pod {pod.name}", f"delete/{pod.uid}"))

    def checkpoint(self, key: Key, uid: str, decisions: CheckpointDecisions) -> Outcome:
        """`uid` is the checkpoint's. As `pool`."""
        do, writer = _Steps(key, uid, self._recorder), self._writer
        do.each(partial(writer.delete, key, BY_NAME[r.kind], r.name, r.uid) for r in decisions.remove)
        do.each(partial(writer.create, key, JOBS, m, uid) for m in decisions.create)
        outcome = do.report(decisions.status, decisions.events, writer)
        if decisions.delete is not None:
            do.each([partial(writer.delete, key, CHECKPOINTS, decisions.delete.name, decisions.delete.uid)])
        if decisions.finalizers is not None and not outcome.errors:  # last: without it the object is gone
            do.each([partial(writer.finalizers, key, decisions.finalizers)])
        return outcome


class _Steps:
    """Runs writes one after the other. One that fails ends its group; a failure that is the API server's ends
    all.
    """

    def __init__(self, key: Key, uid: str, recorder: Recorder) -> None:
        self.outcome = Outcome()
        self.said: list[Event] = []  # Events about the writes themselves
        self._key, self._uid, self._recorder = key, uid, recorder
        self._down = False

    def each(self, steps: Iterable[Callable[[], object]]) -> None:
        for step in steps:
            if self._down:
                return
            try:
                step()
                self.outcome.writes += 1
            except (ApiError, TakenError) as error:
                self._failed(error)
                return

    def _failed(self, error: ApiError | TakenError) -> None:
        self.outcome.errors.append(error)
        if isinstance(error, ApiError) and error.passing:
            self._down = True
            log.warning("%s: %s; it is tried again", self._key, error)
            return
        log.error("%s: %s", self._key, error)
        # A quota's numbers change; the refusal is the same.
        told = f"WriteRefused/{re.sub('[0-9]+', '', str(error))}"
        said = Event(type="Warning", reason="WriteRefused", message=str(error), key=told)
        self._recorder.emit(self._key, self._uid, said)

    def report(self, status: Manifest | None, events: tuple[Event, ...], writer: Writer) -> Outcome:
        """The status, then the Events; none of them about a status that could not be written."""
        done: list[bool] = []
        if status is not None:
            self.each([lambda: done.append(writer.status(self._key, status))])
        if status is not None and done != [True]:
            return self.outcome
        for event in events:
            if self._down or not self._recorder.emit(self._key, self._uid, event):
                self.outcome.waiting = True
                break
        return self.outcome
