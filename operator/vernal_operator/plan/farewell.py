"""Why a container ended, from its exit code and its termination message, so that nobody need read a log.

A worker writes `REASON: SENTENCE`, then its next step as the last line. One that was killed says nothing, and
Kubernetes hands on the end of its log. A container beside it says what it will, where it will.
"""

import re
from dataclasses import dataclass

from vernal_contract.reasons import NEXT_STEP, Reason

from vernal_operator.plan.model import ContainerView, PodView

_FIRST = re.compile(r"([A-Za-z][A-Za-z0-9_]*): (.*)", re.DOTALL)
_LONGEST = 1000  # characters of a sentence; kubectl describe is to stay readable
_KILLED = {
    "OOMKilled": ("OutOfMemory", "the container used more memory than its limit", "raise spec.resources.limits.memory"),
}


@dataclass(frozen=True, slots=True)
class Farewell:
    """`reason`: one word, of `vernal_contract.reasons` where the worker gave one; `next_step` may be empty."""

    reason: str
    sentence: str
    next_step: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.sentence, self.next_step) if part)


def farewell(pod: PodView) -> Farewell:
    """Why the container of a pod that counts (`pods.at_fault`) ended last. It has ended at least once."""
    if pod.beside is not None:
        return _other(pod.name, pod.beside)
    code = f"exit code {pod.last_exit_code}" + (f" ({pod.last_exit_reason})" if pod.last_exit_reason else "")
    if pod.last_exit_reason in _KILLED:
        reason, sentence, step = _KILLED[pod.last_exit_reason]
        return Farewell(reason, f"{code}: {sentence}", step)
    text = pod.last_exit_message.removesuffix("\n")
    said, _, step = text.rpartition("\n")
    match = _FIRST.fullmatch(said or text)
    if match and match[1] in set(Reason):
        known = NEXT_STEP.get(Reason(match[1]), "")
        return Farewell(match[1], f"{code}: {_short(match[2])}", (step.strip() if said else "") or known)
    last = _short(text.rstrip().rpartition("\n")[2])
    worker = pod.worker.last_error if pod.worker is not None else None
    sentence = worker or last
    logs = f"see `kubectl logs {pod.name} --previous`"
    return Farewell("Crashing", f"{code}: {sentence}" if sentence else code, logs)


def _other(pod: str, container: ContainerView) -> Farewell:
    code = f"container {container.name}: exit code {container.last_exit_code}"
    code += f" ({container.last_exit_reason})" if container.last_exit_reason else ""
    if container.last_exit_reason in _KILLED:
        reason, sentence, _ = _KILLED[container.last_exit_reason]
        return Farewell(reason, f"{code}: {sentence}", "raise its resources.limits.memory in spec.podTemplate")
    last = _short(container.last_exit_message.rstrip().rpartition("\n")[2])
    logs = f"see `kubectl logs {pod} -c {container.name} --previous`"
    return Farewell("Crashing", f"{code}: {last}" if last else code, logs)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
