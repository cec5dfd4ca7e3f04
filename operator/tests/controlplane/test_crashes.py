"""The operator is killed at each of its writes: it comes back, and all is as if nothing had happened.

After each, and before the first. Before any other, the server holds what it held after the one before: the same point.
"""

from collections.abc import Callable

import pytest
from controlplane.cases import Case, Server
from controlplane.proxy import Call, Fault
from controlplane.scenarios import ALL, POINT_QUIET_SECONDS, Scenario, in_parallel, reference, run

pytestmark = pytest.mark.apiserver


def test_killed_at_every_write(server: Server, say: Callable[[str], None]) -> None:
    references = in_parallel(lambda scenario: reference(server, scenario, "crashes"), ALL)
    points = [
        (scenario, index, after)
        for scenario, of in zip(ALL, references, strict=True)
        for index in range(len(of.writes))
        for after in (False, True)
        if after or index == 0
    ]
    pictures = {scenario: of.picture for scenario, of in zip(ALL, references, strict=True)}
    missed: list[str] = []

    def point(at: tuple[Scenario, int, bool]) -> str | None:
        scenario, index, after = at
        name = f"crash-{scenario.name}-{index}-{'after' if after else 'before'}"
        with Case(server, name) as case:
            try:
                run(case, scenario, _kill(case, index, after))
                if case.starts == 1:  # statuses were written together that are two writes in the reference
                    missed.append(name)
                case.wait_same(pictures[scenario])
                case.assert_quiet(POINT_QUIET_SECONDS, patience=30)
                case.invariants.check()
            except AssertionError as error:
                return str(error)
        return None

    failed = [error for error in in_parallel(point, points) if error]
    say(f"operator killed at {len(points) - len(missed)} points of {len(points)}")
    assert not failed, f"{len(failed)} of {len(points)} points:\n" + "\n".join(failed)
    assert len(missed) <= len(points) // 10, f"no such write at {sorted(missed)}"


def _kill(case: Case, index: int, after: bool) -> Callable[[int, Call], Fault | None]:
    def fault(number: int, call: Call) -> Fault | None:
        if number != index or case.operator is None:
            return None
        return Fault(drop="after" if after else "before", then=case.operator.kill)

    return fault
