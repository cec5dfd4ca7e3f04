"""Every class of faults in every scenario, once, two operators in one and one walk: what `make fault-matrix` does at
length.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
from controlplane.cases import Case, Server
from controlplane.faults import CLASSES, WATCHED_KINDS, Bench, FaultClass
from controlplane.matrix import Matrix
from controlplane.proxy import Watches
from controlplane.scenarios import ALL
from controlplane.second import TWO
from controlplane.walks import WALKS
from vernal_operator.observe.informer import PAUSE_SECONDS

pytestmark = pytest.mark.apiserver


def seeds(of: FaultClass, bench: Bench) -> range:
    """Each scenario once; but the operator is killed after every third of its writes: `make fault-matrix` does each.

    Before each of them the API server holds what it held after the one before.
    """
    return range(0, of.runs(bench), 3) if of.name == "killed-after" else range(len(ALL))


def test_every_class_in_every_scenario(server: Server, say: Callable[[str], None]) -> None:
    bench = Bench(server)
    bench.prepare("faults")
    matrix = Matrix(bench, say=lambda text: None)
    jobs = [(of, seed) for of in CLASSES if of.name != "killed-before" for seed in seeds(of, bench)]
    red = matrix.run([(WALKS, 0), (TWO, 2), *jobs])
    say(matrix.table())
    assert not red, "\n".join(matrix.failure(result) for result in red)


def test_a_watch_that_closes_at_once_is_not_opened_in_a_hurry(case: Case) -> None:
    case.proxy.spoil_watches(Watches(close_at_once=True), WATCHED_KINDS, times=5)
    case.start()
    case.wait("every watch to be opened often", lambda: not case.proxy.watches.spoiled)
    opened: dict[str, list[float]] = {}
    for call in case.proxy.calls:
        if call.is_watch:
            opened.setdefault(call.path, []).append(call.at)
    assert len(opened) == WATCHED_KINDS
    shortest = min(after - before for times in opened.values() for before, after in pairwise(times))
    assert shortest >= PAUSE_SECONDS[0] / 2, "a watch is opened without a pause"
    assert case.operator is not None and case.operator.alive
