"""The operator is killed at each of its writes: it comes back, and all is as if nothing had happened.

After each, and before the first. Before any other, the server holds what it held after the one before: the same point.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from controlplane.cases import Case, Server
from controlplane.proxy import Call, Fault
from controlplane.scenarios import ALL, POINT_QUIET_SECONDS, Reference, Scenario, in_parallel, reference, run

pytestmark = pytest.mark.apiserver

TOLD = frozenset({"PATCH vllmworkerpools status", "PATCH vllmcheckpoints status", "POST events"})
"""Writes that tell what was seen: of two things, one run tells twice and the next, which saw both at once, once."""


@dataclass(frozen=True)
class Point:
    """The `nth` write (from 0) that does `what` in a scenario, and which side of it the operator dies on."""

    scenario: Scenario
    what: str
    nth: int
    after: bool

    def __str__(self) -> str:
        side = "after" if self.after else "before"
        return f"crash-{self.scenario.name}-{side}-{self.what.lower().replace(' ', '-')}-{self.nth}"


@pytest.mark.timeout(3600)
def test_killed_at_every_write(server: Server, say: Callable[[str], None]) -> None:
    references = in_parallel(lambda scenario: reference(server, scenario, "crashes"), ALL)
    pictures = {scenario: of.picture for scenario, of in zip(ALL, references, strict=True)}
    points = [point for scenario, of in zip(ALL, references, strict=True) for point in _points(scenario, of)]
    missed: list[Point] = []

    def one(point: Point) -> str | None:
        with Case(server, str(point)) as case:
            try:
                run(case, point.scenario, _kill(case, point))
                case.assert_quiet(POINT_QUIET_SECONDS)
                case.wait_same(pictures[point.scenario])
                case.invariants.check()
                if case.starts == 1:
                    missed.append(point)
            except AssertionError as error:
                return str(error)
        return None

    failed = [error for error in in_parallel(one, points) if error]
    say(f"operator killed at {len(points) - len(missed)} points of {len(points)}")
    assert not failed, f"{len(failed)} of {len(points)} points:\n" + "\n".join(failed)
    unexpected = [str(point) for point in missed if point.nth == 0 or point.what not in TOLD]
    assert not unexpected, f"no such write at {unexpected}"


def _points(scenario: Scenario, of: Reference) -> list[Point]:
    seen: Counter[str] = Counter()
    points = []
    for call in of.writes:
        if not points:
            points.append(Point(scenario, call.what, 0, after=False))
        points.append(Point(scenario, call.what, seen[call.what], after=True))
        seen[call.what] += 1
    return points


def _kill(case: Case, point: Point) -> Callable[[int, Call], Fault | None]:
    numbers = itertools.count()

    def fault(number: int, call: Call) -> Fault | None:
        if number < 0 or call.what != point.what or next(numbers) != point.nth or case.operator is None:
            return None
        return Fault(drop="after" if point.after else "before", then=case.operator.kill)

    return fault
