"""Classes of faults. Each is many runs of the scenarios, one for each seed, with faults of one kind in them.

The oracle is the same for all: in the end everything is as it is without faults, then nothing is called any more, and
what must hold at every moment held at every event. An operator that was not killed is the same process in the end.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from controlplane.cases import Case, Server
from controlplane.proxy import Call, Fault, FaultProxy, Watches
from controlplane.scenarios import ALL, POINT_QUIET_SECONDS, Reference, Scenario, go, in_parallel, reference, run
from controlplane.zygote import Clock
from patience import GUARD_SECONDS
from vernal_contract import names
from vernal_operator.kinds import POOLS, REVISIONS
from vernal_operator.observe.views import READERS

WATCHED_KINDS = len(READERS)

Calls = Callable[[int, Call], Fault | None]
"""What happens to a call, by the number of the write (-1 for a read)."""


View = Callable[[dict[str, Any]], dict[str, Any]]
"""What of a picture counts."""
Runner = Callable[["Bench", str, int], int]
"""See `FaultClass.run`."""


@dataclass
class Bench:
    """What all runs share. `patience` bounds each wait, in seconds."""

    server: Server
    patience: float = GUARD_SECONDS
    _references: dict[Scenario, Reference] = field(default_factory=dict)

    def prepare(self, of: str) -> None:
        """Run all scenarios without faults. `of` makes the namespaces' names unique."""
        found = in_parallel(lambda scenario: reference(self.server, scenario, of), ALL)
        self._references.update(zip(ALL, found, strict=True))

    def reference(self, scenario: Scenario) -> Reference:
        return self._references[scenario]

    @cached_property
    def points(self) -> tuple["Point", ...]:
        """Every write of every scenario, in an order that is the same in each run: those that tell come last."""
        found = [point for scenario in ALL for point in _points(scenario, self.reference(scenario))]
        return tuple(sorted(found, key=lambda point: point.what in TOLD))


@dataclass(frozen=True)
class FaultClass:
    """`run` is given the bench, a namespace that is not there yet and a seed.

    It returns how many faults were injected, and raises AssertionError if the oracle does not hold. `runs` is how many
    seeds, from 0 on, there are by default.
    """

    name: str
    text: str
    runs: Callable[[Bench], int]
    run: Runner
    told: Callable[[Bench, int], str] = lambda bench, seed: _scenario(seed).name
    """What a seed means, in words."""


def _scenario(seed: int) -> Scenario:
    return ALL[seed % len(ALL)]


def _times(count: int) -> Callable[[Bench], int]:
    return lambda bench: count * len(ALL)


def judge(
    case: Case,
    picture: dict[str, Any],
    starts: int | None = 1,
    view: View = lambda picture: picture,
) -> None:
    """The oracle. `starts`: how often the operator was started, if that is known. `view`: what of a picture counts."""
    case.wait_same(picture, view)
    case.assert_quiet(POINT_QUIET_SECONDS)
    case.wait_same(picture, view)
    case.invariants.check()
    if starts is not None:
        assert case.starts == starts, f"{case.namespace}: the operator died {case.starts - starts} times"


def without_history(picture: dict[str, Any]) -> dict[str, Any]:
    """Without what is kept of revisions but the wanted one: one that was given up before it could be kept is not."""
    wanted = {pool.get("status", {}).get("updateRevision") for pool in picture[POOLS.name]}
    revisions = [
        {name: value for name, value in item.items() if name != "revision"}
        for item in picture[REVISIONS.name]
        if item["metadata"]["labels"][names.LABEL_REVISION] in wanted
    ]
    return picture | {REVISIONS.name: revisions}


# --- killed ------------------------------------------------------------------------------------------------

TOLD = frozenset({"PATCH vllmworkerpools status", "PATCH vllmcheckpoints status", "POST events"})
"""Writes that tell what was seen: of two things, one run tells twice and the next, which saw both at once, once."""


class Chosen:
    """A write drawn by `seed`, of those that each run of a scenario makes. Called with each call, is it that one?"""

    def __init__(self, of: Reference, seed: str) -> None:
        self.number = Random(seed).randrange(sum(call.what not in TOLD for call in of.writes))
        self._seen = 0

    def __call__(self, index: int, call: Call) -> bool:
        if index < 0 or call.what in TOLD:
            return False
        self._seen += 1
        return self._seen == self.number + 1


@dataclass(frozen=True)
class Point:
    """The `nth` write (from 0) that does `what` in a scenario."""

    scenario: Scenario
    what: str
    nth: int

    def __str__(self) -> str:
        return f"{self.scenario.name}, {self.what} number {self.nth + 1}"


def _points(scenario: Scenario, of: Reference) -> list[Point]:
    seen: Counter[str] = Counter()
    points = []
    for call in of.writes:
        points.append(Point(scenario, call.what, seen[call.what]))
        seen[call.what] += 1
    return points


def _killed(after: bool) -> Runner:
    def one(bench: Bench, namespace: str, seed: int) -> int:
        point = bench.points[seed % len(bench.points)]
        with Case(bench.server, namespace, patience=bench.patience) as case:
            run(case, point.scenario, _kill(case, point, after))
            judge(case, bench.reference(point.scenario).picture, starts=None)
            if case.starts == 1:
                assert point.what in TOLD and point.nth > 0, f"{namespace}: no such write: {point}"
            return case.starts - 1

    return one


def _kill(case: Case, point: Point, after: bool) -> Calls:
    seen: Counter[str] = Counter()

    def fault(number: int, call: Call) -> Fault | None:
        if number < 0 or call.what != point.what or case.operator is None:
            return None
        seen[call.what] += 1
        if seen[call.what] != point.nth + 1:
            return None
        return Fault(drop="after" if after else "before", then=case.operator.kill)

    return fault


# --- calls -------------------------------------------------------------------------------------------------


_AT_RANDOM, _IN_A_ROW = 8, 3
"""Faults, at most: the operator's pauses grow with them, to a minute."""


def _calls(
    name: str,
    fault: Fault,
    check: Callable[[list[Call]], None] = lambda calls: None,
    view: View = lambda picture: picture,
) -> Runner:
    """Every other write of each scenario; then, by seed, writes at random, and reads with them."""

    def one(bench: Bench, namespace: str, seed: int) -> int:
        scenario, turn = _scenario(seed), seed // len(ALL)
        random = Random(f"{name} {seed}")
        share, in_a_row, left = random.uniform(0.1, 0.6), 0, _AT_RANDOM

        def calls(index: int, call: Call) -> Fault | None:
            nonlocal in_a_row, left
            if turn == 0:
                return fault if index >= 0 and index % 2 == 0 else None
            if call.is_lease or call.is_watch or call.is_discovery or (index < 0 and turn % 2 == 0):
                return None
            in_a_row = in_a_row + 1 if left and random.random() < share and in_a_row < _IN_A_ROW else 0
            left -= in_a_row > 0
            return fault if in_a_row else None

        with Case(bench.server, namespace, patience=bench.patience) as case:
            run(case, scenario, calls)
            case.proxy.fault = lambda call: None
            judge(case, bench.reference(scenario).picture, view=view)
            check(case.proxy.calls)
            return case.proxy.injected

    return one


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


def _hang(bench: Bench, namespace: str, seed: int) -> int:
    """One write, chosen by the seed, is done and not answered, until the operator gives the call up."""
    scenario = _scenario(seed)
    of = bench.reference(scenario)
    chosen = Chosen(of, f"no-answer {seed}")

    def calls(index: int, call: Call) -> Fault | None:
        return Fault(drop="never") if chosen(index, call) else None

    with Case(bench.server, namespace, patience=bench.patience) as case:
        run(case, scenario, calls)
        judge(case, of.picture)
        return case.proxy.injected


def _outage(bench: Bench, namespace: str, seed: int) -> int:
    """From some write on everything is answered 503, until the lease has been refused for longer than it is held; from
    the second turn on for minutes, in which the operator's pauses are at their longest.

    With odd seeds the operator is killed meanwhile, and has to start against 503.
    """
    scenario = _scenario(seed)
    chosen = Chosen(bench.reference(scenario), f"outage {seed}")
    down, refused = False, 0
    enough = _REFUSED_LEASES if seed < len(ALL) else _MANY_REFUSED_LEASES
    with Case(bench.server, namespace, f"--lease-seconds={_LEASE_SECONDS}", patience=bench.patience) as case:

        def calls(index: int, call: Call) -> Fault | None:
            nonlocal down, refused
            if chosen(index, call):
                down = True
                case.proxy.set_watches(Watches())  # which ends those that are open
            if not down:
                return None
            refused += call.is_lease
            down = refused < enough
            kill = seed % 2 and refused == enough // 2 and call.is_lease and case.operator is not None
            return Fault(status=503, retry_after=seed % 3 or None, then=case.operator.kill if kill else lambda: None)

        run(case, scenario, calls)
        go(case, lambda case: lambda: refused >= enough)
        judge(case, bench.reference(scenario).picture, starts=1 + seed % 2)
        return case.proxy.injected


_LEASE_SECONDS = 5
_REFUSED_LEASES, _MANY_REFUSED_LEASES = 12, 150
"""About one comes each second."""


def _slow(bench: Bench, namespace: str, seed: int) -> int:
    random = Random(f"slow {seed}")
    longest = random.choice((0.3, 1.0, 2.0))

    def calls(index: int, call: Call) -> Fault | None:
        return None if call.is_watch or call.is_discovery else Fault(seconds=random.uniform(0.05, longest))

    with Case(bench.server, namespace, patience=bench.patience) as case:
        run(case, _scenario(seed), calls)
        judge(case, bench.reference(_scenario(seed)).picture)
        return case.proxy.injected


# --- watches -----------------------------------------------------------------------------------------------


def _watches(begin: Callable[[FaultProxy, int], None], *args: str) -> Runner:
    def one(bench: Bench, namespace: str, seed: int) -> int:
        with Case(bench.server, namespace, *args, patience=bench.patience) as case:
            run(case, _scenario(seed), begin=lambda: begin(case.proxy, seed))
            case.wait("watches to be served well", lambda: not case.proxy.watches.spoiled)
            judge(case, bench.reference(_scenario(seed)).picture)
            return max(case.proxy.injected, 1)

    return one


def _spoiled(watches: Watches, times: int = 5) -> Callable[[FaultProxy, int], None]:
    """The first times that a watch of a kind is opened. By seed, ever more often."""
    return lambda proxy, seed: proxy.spoil_watches(watches, WATCHED_KINDS, times=times + seed // len(ALL) % 3)


def _stale(proxy: FaultProxy, seed: int) -> None:
    proxy.set_watches(Watches(delay=1.0 if seed < len(ALL) else Random(f"stale {seed}").uniform(0.1, 2.0)))


def _disordered(proxy: FaultProxy, seed: int) -> None:
    proxy.set_watches(Watches(delay=Random(f"disordered {seed}").choice((0.0, 0.5)), disorder=seed))


def _pages_expire(proxy: FaultProxy, seed: int) -> None:
    """Lists have one object on a page, and the next page is often refused with 410."""
    random, left = Random(f"pages {seed}"), 12

    def fault(call: Call) -> Fault | None:
        nonlocal left
        if not (call.is_list and "continue" in call.query and left and random.random() < 0.7):
            return None
        left -= 1
        return Fault(status=410)

    proxy.page, proxy.fault = 1, fault
    _spoiled(Watches(error=410), times=3)(proxy, seed)


# --- the clock ---------------------------------------------------------------------------------------------


_JUMP_SECONDS = 600.0
"""Two such jumps are less than the half hour that a roll has by default: a longer one ahead is that half hour."""
_OFF_SECONDS = {False: (20.0, 600.0, 7200.0), True: (20.0, 300.0, _JUMP_SECONDS)}


def _clock(bench: Bench, namespace: str, seed: int) -> int:
    """The operator's wall clock is fast, slow, or jumps at its writes."""
    scenario, random = _scenario(seed), Random(f"clock {seed}")
    jumps = seed // len(ALL) % 3 == 2
    sign = -1 if seed // len(ALL) % 3 == 1 else 1
    clock = Clock(bench.server.directory / f"{namespace}.clock", sign * random.choice(_OFF_SECONDS[jumps]))
    count = 1

    def calls(index: int, call: Call) -> Fault | None:
        nonlocal count
        if jumps and index >= 0 and random.random() < 0.3:
            clock.set(random.uniform(-_JUMP_SECONDS, _JUMP_SECONDS))
            count += 1
        return None

    with Case(bench.server, namespace, clock=clock, patience=bench.patience) as case:
        run(case, scenario, calls)
        judge(case, bench.reference(scenario).picture)
        return count


CLASSES: tuple[FaultClass, ...] = (
    FaultClass(
        "no-answer", "a write is done, and its answer never comes", _times(2), _hang
    ),
    FaultClass("outage", "503 to everything for longer than the lease is held, or for minutes", _times(2), _outage),
    FaultClass(
        "watch-silent", "watches show nothing and do not end", _times(2),
        _watches(_spoiled(Watches(silent=True), times=2), "--watch-silence-seconds=3"),
    ),
    FaultClass("clock", "the wall clock is fast, slow, or jumps", _times(3), _clock),
    FaultClass("slow", "every call takes up to 2 s", _times(2), _slow),
    FaultClass(
        "error-422", "writes refused as invalid", _times(3),
        _calls("error-422", Fault(status=422), view=without_history),
    ),
    FaultClass(
        "error-429", "too many requests, with Retry-After", _times(3),
        _calls("error-429", Fault(status=429, retry_after=1), _retry_after_is_honoured),
    ),
    FaultClass("error-409", "conflicts", _times(3), _calls("error-409", Fault(status=409))),
    FaultClass("error-500", "internal errors", _times(3), _calls("error-500", Fault(status=500))),
    FaultClass(
        "error-500-done", "internal errors though it was done", _times(3),
        _calls("error-500-done", Fault(status=500, done=True)),
    ),
    FaultClass("error-503", "unavailable", _times(3), _calls("error-503", Fault(status=503))),
    FaultClass(
        "question-lost", "the connection breaks before", _times(3),
        _calls("question-lost", Fault(drop="before")),
    ),
    FaultClass(
        "answer-lost", "the connection breaks after", _times(3), _calls("answer-lost", Fault(drop="after"))
    ),
    FaultClass("events-stale", "events come up to 2 s late", _times(3), _watches(_stale)),
    FaultClass("events-disordered", "events change places, and come twice", _times(3), _watches(_disordered)),
    FaultClass("watch-closes", "watches close at once", _times(3), _watches(_spoiled(Watches(close_at_once=True)))),
    FaultClass(
        "watch-410-opened", "410 when a watch is opened", _times(3),
        _watches(_spoiled(Watches(expired_when_opened=True))),
    ),
    FaultClass("watch-410-event", "410 as an event", _times(3), _watches(_spoiled(Watches(error=410)))),
    FaultClass("watch-500-event", "500 as an event", _times(3), _watches(_spoiled(Watches(error=500)))),
    FaultClass("list-410", "410 in the middle of a list", _times(2), _watches(_pages_expire)),
    *(
        FaultClass(
            f"killed-{side}", f"killed {side} each write", lambda bench: len(bench.points), _killed(side == "after"),
            lambda bench, seed: str(bench.points[seed % len(bench.points)]),
        )
        for side in ("before", "after")
    ),
)  # fmt: skip
