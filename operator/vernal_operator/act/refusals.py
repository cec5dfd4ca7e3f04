"""Remembers which writes are refused, so that they are told as a condition and tried again ever more seldom."""

import random
import re
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from vernal_contract import names

from vernal_operator.act.writer import TakenError
from vernal_operator.build.meta import digest
from vernal_operator.client import ApiError, Object
from vernal_operator.kinds import Key
from vernal_operator.plan.model import Refused

PAUSE_SECONDS = (1.0, 60.0)
"""Before a refused write is tried again: at first, and at most. What refuses it (a quota, say) is not watched."""

_REASONS = (
    (403, re.compile(r"exceeded quota:|failed quota:"), "QuotaExceeded"),
    (403, re.compile(r"violates PodSecurity"), "PodSecurityViolation"),
    (403, re.compile(r"(maximum|minimum) \S+ usage per|limit to request ratio per"), "LimitRangeExceeded"),
    (None, re.compile(r"ValidatingAdmissionPolicy .* denied request"), "AdmissionDenied"),
    (403, re.compile(r'^\S+ (".*" )?is forbidden: User ".*" cannot '), "Forbidden"),
    (422, re.compile(""), "InvalidObject"),
)
"""The API server has one word, Forbidden, for most of them; which it is, only its sentence tells."""
_WEBHOOK = {"denied": "AdmissionDenied", "not asked": "AdmissionUnavailable"}

STATUS = "status"
"""What is wanted of an object's status: refused for the same reasons whatever it holds, and told by no condition."""

SILENT = "NamespaceTerminating"
"""Nothing is wrong, and nobody need be told: all goes with the namespace."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is written. Two writes with an equal `alike` are refused for the same reasons: pods of one revision, say."""

    verb: str
    kind: str
    name: str
    alike: Hashable

    @classmethod
    def of(cls, verb: str, kind: str, manifest: Object) -> "Subject":
        meta = manifest["metadata"]
        labels = {k: v for k, v in (meta.get("labels") or {}).items() if k != names.LABEL_SLOT}
        rest = {k: v for k, v in meta.items() if k not in ("name", "resourceVersion")} | {"labels": labels}
        return cls(verb, kind, meta["name"], digest(manifest | {"metadata": rest}))


def reason(error: ApiError | TakenError) -> str:
    """One word for why."""
    if isinstance(error, TakenError):
        return "NameTaken"
    if error.namespace_terminating or (error.not_found and error.sentence.startswith('namespaces "')):
        return SILENT
    if error.webhook:
        return _WEBHOOK[error.webhook]
    for status, pattern, word in _REASONS:
        if status in (None, error.status) and pattern.search(error.sentence):
            return word
    return "WriteRefused"


@dataclass(slots=True)
class _Held:
    told: Refused
    tries: int
    until: float


class Refusals:
    """What is refused, by the pool or checkpoint on whose behalf it was written. Thread-safe for different keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[Key, dict[Hashable, _Held]] = {}

    def holds(self, key: Key, subject: Subject) -> bool:
        """Whether it was refused so lately that it is not to be tried now."""
        now = self._clock()
        return any(held.until > now for held in self._of(key, subject))

    def refused(self, key: Key, subject: Subject, error: ApiError | TakenError) -> Refused | None:
        """Note a refusal. Returns it if it says something new that people are to be told."""
        # Somebody else's object stands in the way of one name; all else in the way of everything alike.
        index = _named(subject) if isinstance(error, TakenError) else subject.alike
        sentence = str(error) if isinstance(error, TakenError) else error.sentence
        told = Refused(subject.verb, subject.kind, subject.name, reason(error), sentence)
        first, longest = PAUSE_SECONDS
        with self._lock:
            of_key = self._held.setdefault(key, {})
            before = of_key.get(index)
            tries = before.tries + 1 if before else 1
            pause = min(longest, first * 2 ** min(16, tries - 1)) * random.uniform(1.0, 1.5)  # noqa: S311
            of_key[index] = _Held(told, tries, self._clock() + pause)
        new = before is None or _words(before.told) != _words(told)
        return told if new and told.reason != SILENT else None

    def accepted(self, key: Key, subject: Subject) -> None:
        """It went through."""
        with self._lock:
            for index in (subject.alike, _named(subject)):
                self._held.get(key, {}).pop(index, None)

    def keep(self, key: Key, wanted: set[Subject]) -> None:
        """Forget what is not wanted any more."""
        indices = {index for subject in wanted for index in (subject.alike, _named(subject))}
        with self._lock:
            kept = {index: held for index, held in self._held.pop(key, {}).items() if index in indices}
            if kept:
                self._held[key] = kept

    def forget(self, key: Key) -> None:
        with self._lock:
            self._held.pop(key, None)

    def told(self, key: Key) -> tuple[Refused, ...]:
        """All that conditions are to tell of, in a fixed order."""
        with self._lock:
            of_key = self._held.get(key, {})
            found = [held.told for index, held in of_key.items() if index != STATUS and held.told.reason != SILENT]
        return tuple(sorted(found, key=lambda one: (one.kind, one.name, one.verb)))

    def namespace_goes(self, key: Key) -> bool:
        """Whether something cannot be made because the namespace goes away. For good: it does not come back."""
        with self._lock:
            return any(held.told.reason == SILENT for held in self._held.get(key, {}).values())

    def next(self, key: Key) -> float | None:
        """Seconds until the first of them may be tried again."""
        with self._lock:
            moments = [held.until for held in self._held.get(key, {}).values()]
        return max(0.0, min(moments) - self._clock()) if moments else None

    def _of(self, key: Key, subject: Subject) -> list[_Held]:
        with self._lock:
            of_key = self._held.get(key, {})
            return [of_key[index] for index in (subject.alike, _named(subject)) if index in of_key]


def _named(subject: Subject) -> Hashable:
    return subject.verb, subject.kind, subject.name


def _words(told: Refused) -> tuple[str, str]:
    """Without names and numbers, which change from try to try (a quota counts)."""
    return told.reason, re.sub(r'"[^"]*"|[0-9]+', "", told.sentence)
