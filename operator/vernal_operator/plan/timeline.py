"""Where the seconds of one start went: from the moments at which a pod was seen to change, to phases.

    operator   the wish (spec.replicas grew) to the pod
    schedule   the pod to its node
    kubelet    the node to the container that runs: volumes, image, sandbox
    worker     the container to Ready: the supervisor's own phases, then the probe
    endpoint   Ready to the Service's endpoint
    total      all of it; without the first, where the pod was made for another reason

Seconds since the epoch, by the operator's clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vernal_contract.state import WorkerState
from vernal_contract.wakes import Wake

from vernal_operator import spans
from vernal_operator.plan.model import PodView, Pool
from vernal_operator.spans import Span

MOMENTS = ("pod", "node", "running", "ready", "endpoint")
_PHASES = ("schedule", "kubelet", "worker", "endpoint")
WISH_SECONDS = 60.0
"""A pod that is made later after a wish was made for another reason."""
_SUPERVISOR = frozenset(
    [
        "identity",
        "find",
        "fetch",
        "verify",
        "shm",
        "criu",
        "cuda",
        "weights",
        "weights_wait",
        "wake",
        "resume",
        "canary",
        "engine_start",
        "warm",
        "oracle",
        "quiesce",
        "store_weights",
        "cuda_suspend",
        "freeze",
        "publish",
        "total",
    ]
)
"""Of what workers report: they run other people's code, and must not make up series."""


@dataclass(frozen=True, slots=True)
class Wish:
    """For one more worker.

    Attributes:
        at: when it was seen.
        versions: where the pool was at zero, its resourceVersions when it was last seen there, and when it was first
            seen not to be. What happened between two looks is seen as one change.
    """

    at: float
    versions: tuple[int, int] | None = None

    def trace(self, uid: str, wakes: Iterable[Wake]) -> str:
        """The trace context (`traceparent`) of the request that has woken the pool with this uid, by its last wake
        between the two versions; "" if none of `wakes` is that: somebody else has asked.
        """
        after, until = self.versions or (0, 0)
        fits = (wake for wake in wakes if wake.uid == uid and after < wake.version <= until)
        last = max(fits, key=lambda wake: wake.version, default=None)
        return last.traceparent if last is not None else ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Of one start that is complete.

    Attributes:
        phases: name and seconds; `total` last, and `worker/NAME` after that.
        span: all of it, in seconds since the epoch; its children are the phases.
        wish: None where the pod was made for another reason.
    """

    phases: Mapping[str, float]
    span: Span
    wish: Wish | None


def timeline(
    pool: Pool, pod: PodView, worker: WorkerState, moments: Mapping[str, float], wish: Wish | None
) -> Timeline:
    """`moments`: of `MOMENTS`, in seconds since the epoch, `pod` and `endpoint` at least. A clock that was set back
    between two of them makes the later one as early as the other.
    """
    times = [moments[MOMENTS[0]]]
    for name in MOMENTS[1:]:
        times.append(max(times[-1], moments.get(name, moments["endpoint"])))
    steps = [Span(name, begin, end) for name, begin, end in zip(_PHASES, times, times[1:], strict=False)]
    if wish is not None and not 0 <= times[0] - wish.at <= WISH_SECONDS:
        wish = None
    if wish is not None:
        steps.insert(0, Span("operator", wish.at, times[0]))
    own = {name: seconds for name, seconds in worker.timings.items() if name in _SUPERVISOR}
    span = Span(
        "start", steps[0].begin, steps[-1].end, _attributes(pool, pod, worker),
        tuple(_with_own(step, own, pod, worker) if step.name == "worker" else step for step in steps),
    )  # fmt: skip
    phases = {step.name: step.seconds for step in steps} | {"total": span.seconds}
    return Timeline(phases | {f"worker/{name}": seconds for name, seconds in own.items()}, span, wish)


def _with_own(step: Span, own: Mapping[str, float], pod: PodView, worker: WorkerState) -> Span:
    """With the supervisor's phases, of which some go on side by side. An older worker says how long they took, and not
    when: they are laid one behind the other from the start of its process on."""
    began = step.begin if pod.answered_at is None else pod.answered_at - worker.uptime
    steps = {name: max(0.0, seconds) for name, seconds in own.items() if name != "total"}
    if steps.keys() <= worker.begun.keys():
        at = {name: began + worker.begun[name] for name in steps}
        found = (Span(f"worker/{name}", at[name], at[name] + seconds) for name, seconds in steps.items())
        children = sorted((span.within(step.begin, step.end) for span in found), key=lambda span: span.begin)
        return Span(step.name, step.begin, step.end, children=tuple(children))
    first = min(max(began, step.begin), step.end)
    fits = sum(steps.values()) <= step.end - first
    named = ((f"worker/{name}", seconds) for name, seconds in steps.items())
    return Span(step.name, step.begin, step.end, children=spans.laid(named, first if fits else step.begin, step.end))


def _attributes(pool: Pool, pod: PodView, worker: WorkerState) -> dict[str, str]:
    found = {
        spans.NAMESPACE: pool.namespace,
        spans.POOL: pool.name,
        spans.REVISION: pod.revision,
        spans.POD: pod.name,
        spans.POD_UID: pod.uid,
        spans.NODE: pod.node,
        spans.MODE: str(worker.start_mode),
        spans.REASON: worker.start_reason,
        spans.IDENTITY: worker.identity,
        spans.GENERATION: worker.artifact and worker.artifact.generation,
    }
    return {name: value for name, value in found.items() if value}
