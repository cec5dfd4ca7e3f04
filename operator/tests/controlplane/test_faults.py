"""Each scenario with one kind of fault all along: the state in the end is that of a run without faults."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from controlplane.cases import Case, Server
from controlplane.proxy import Call, Fault, FaultProxy, Watches
from controlplane.scenarios import ALL, POINT_QUIET_SECONDS, Scenario, in_parallel, reference, run
from vernal_operator.observe.informer import PAUSE_SECONDS
from vernal_operator.observe.views import READERS

pytestmark = pytest.mark.apiserver

WATCHED_KINDS = len(READERS)


@dataclass(frozen=True)
class Kind:
    """`calls`: what happens to a call, by the number of the write (-1 for a read). `watches`: how watches are served;
    those that end at once are served well in the end.
    """

    name: str
    calls: Callable[[int, Call], Fault | None] = lambda index, call: None
    watches: Watches = Watches()  # noqa: RUF009 -- frozen


def every_other_write(fault: Fault) -> Callable[[int, Call], Fault | None]:
    return lambda index, call: fault if index >= 0 and index % 2 == 0 else None


KINDS = (
    Kind("question-lost", every_other_write(Fault(drop="before"))),
    Kind("answer-lost", every_other_write(Fault(drop="after"))),
    Kind("error-500", every_other_write(Fault(status=500))),
    Kind("error-500-though-done", every_other_write(Fault(status=500, done=True))),
    Kind("error-503", every_other_write(Fault(status=503))),
    Kind("error-409", every_other_write(Fault(status=409))),
    Kind("error-429", every_other_write(Fault(status=429, retry_after=1))),
    Kind("stale", watches=Watches(delay=1.0)),
    Kind("watches-close-at-once", watches=Watches(close_at_once=True)),
    Kind("watches-refused-410", watches=Watches(expired_when_opened=True)),
    Kind("watches-end-with-410", watches=Watches(error=410)),
    Kind("watches-end-with-500", watches=Watches(error=500)),
)


@pytest.mark.timeout(3600)
def test_every_fault_in_every_scenario(server: Server) -> None:
    references = in_parallel(lambda scenario: reference(server, scenario, "faults"), ALL)
    pictures = {scenario: of.picture for scenario, of in zip(ALL, references, strict=True)}

    def point(at: tuple[Scenario, Kind]) -> str | None:
        scenario, kind = at
        with Case(server, f"{kind.name}-{scenario.name}") as case:
            try:
                run(case, scenario, kind.calls, lambda: _serve_badly(case.proxy, kind))
                if kind.watches.end_at_once:
                    case.wait("watches to be served well", lambda: not case.proxy.watches.end_at_once)
                case.wait_same(pictures[scenario])
                case.assert_quiet(POINT_QUIET_SECONDS)
                case.invariants.check()
                if case.starts != 1:
                    return f"{case.namespace}: the operator died {case.starts - 1} times"
                _retry_after_is_honoured(case.proxy.calls)
            except AssertionError as error:
                return str(error)
        return None

    points = [(scenario, kind) for scenario in ALL for kind in KINDS]
    failed = [error for error in in_parallel(point, points) if error]
    print(f"\n{len(points) - len(failed)} of {len(points)} faulty runs came out as without faults")
    assert not failed, f"{len(failed)} of {len(points)} runs:\n" + "\n".join(failed)


def _serve_badly(proxy: FaultProxy, kind: Kind) -> None:
    if kind.watches.end_at_once:
        proxy.end_watches(kind.watches, WATCHED_KINDS, times=5)
    elif kind.watches.delay:
        proxy.set_watches(kind.watches)


def _retry_after_is_honoured(calls: list[Call]) -> None:
    """After a 429 with Retry-After: 1 the same write does not come again within a second."""
    last: dict[tuple[str, str], float] = {}
    for call in calls:
        if not call.is_write or call.path.endswith("/events"):
            continue
        refused = last.pop((call.method, call.path), 0.0)
        assert call.at - refused > 0.9, f"{call} came {call.at - refused:.2f} s after a 429 with Retry-After: 1"
        if call.status == 429:
            last[call.method, call.path] = call.at


def test_a_watch_that_closes_at_once_is_not_opened_in_a_hurry(case: Case) -> None:
    case.proxy.end_watches(Watches(close_at_once=True), WATCHED_KINDS, times=5)
    case.start()
    case.wait("every watch to be opened often", lambda: not case.proxy.watches.end_at_once)
    opened: dict[str, list[float]] = {}
    for call in case.proxy.calls:
        if call.is_watch:
            opened.setdefault(call.path, []).append(call.at)
    assert len(opened) == WATCHED_KINDS
    shortest = min(after - before for times in opened.values() for before, after in pairwise(times))
    assert shortest >= PAUSE_SECONDS[0] / 2, "a watch is opened without a pause"
    assert case.operator is not None and case.operator.alive
