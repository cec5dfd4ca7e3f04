"""The operator is killed before and after each of its writes: it comes back, and all is as if nothing had happened."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from controlplane.cases import Case, Server, difference
from controlplane.proxy import Call, Fault
from controlplane.scenarios import ALL, Scenario, run

pytestmark = pytest.mark.apiserver

QUIET_SECONDS = 10.0
PARALLEL = int(os.environ.get("THAW_TEST_PARALLEL", "16"))  # most of the time a case waits


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_killed_at_every_write(server: Server, scenario: Scenario) -> None:
    with Case(server, f"crash-{scenario.name}") as case:
        writes = run(case, scenario)
        reference = case.picture()
        case.assert_quiet(QUIET_SECONDS)
        case.invariants.check()
    print("\n" + "\n".join(f"{index:3} {call}" for index, call in enumerate(writes)))

    missed = []

    def point(index: int, after: bool) -> str | None:
        name = f"crash-{scenario.name}-{index}-{'after' if after else 'before'}"
        with Case(server, name) as case:
            try:
                run(case, scenario, _kill(case, index, after))
                if case.starts == 1:  # statuses were written together that are two writes in the reference
                    missed.append(index)
                if (found := case.picture()) != reference:
                    return f"{name}: {difference(reference, found)}"
                case.assert_quiet(QUIET_SECONDS)
                case.invariants.check()
            except AssertionError as error:
                return str(error)
        return None

    with ThreadPoolExecutor(PARALLEL) as threads:
        everything = itertools.product(range(len(writes)), (False, True))
        failed = [error for error in threads.map(lambda one: point(*one), everything) if error]
    points = 2 * len(writes)
    print(f"{scenario.name}: killed at {points - len(missed)} of {points} points")
    assert len(missed) <= points // 5, f"no write at {sorted(missed)} of {points}"
    assert not failed, f"{len(failed)} of {points} points:\n" + "\n".join(failed)


def _kill(case: Case, index: int, after: bool) -> Callable[[int, Call], Fault | None]:
    def fault(number: int, call: Call) -> Fault | None:
        if number != index or case.operator is None:
            return None
        return Fault(drop="after" if after else "before", then=case.operator.kill)

    return fault
