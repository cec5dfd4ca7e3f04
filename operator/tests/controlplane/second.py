"""A second operator beside the first one of a case, and scenarios in which both are alive."""

import signal
from typing import Any

from controlplane.cases import SYSTEM, Case, Server
from controlplane.faults import Bench, Chosen, FaultClass, judge
from controlplane.proxy import Call, Fault
from controlplane.scenarios import ALL, POINT_QUIET_SECONDS, run
from vernal_operator.client import ApiError
from vernal_operator.kinds import LEASES

SECONDS = 5
"""For which a lease is held after each renewal."""
REFUSED = (404, 409, 422)
"""By the uid, version or name that a write asks for."""
WAYS = ("stopped", "cut off", "unable to renew its lease", "killed", "told to end")


class Other(Case):
    """A second operator in the namespace of a case, behind a proxy of its own."""

    def __init__(self, first: Case, server: Server, *args: str) -> None:
        super().__init__(server, first.namespace, *args, patience=first.patience)
        self._args = [arg for arg in self._args if not arg.startswith("--identity")]
        self._args.append(f"--identity={self.identity}")
        self.log = server.directory / f"{first.namespace}-other.log"
        self._kubeconfig = server.directory / f"{first.namespace}-other.kubeconfig"
        self.use(server.token)
        first.use(server.token)  # its kubeconfig, of the same namespace, was written over

    @property
    def identity(self) -> str:
        return f"{self.namespace}-other"

    def __enter__(self) -> "Other":
        return self

    def __exit__(self, *_: object) -> None:
        if self.operator is not None:
            self.operator.kill()
        self.proxy.close()


def lease(case: Case) -> dict[str, Any]:
    """The spec of the Lease that a case's operators ask for; {} if there is none."""
    try:
        return dict(case.client.get(LEASES, SYSTEM, case.namespace)["spec"])
    except ApiError:
        return {}


def let_through(case: Case) -> list[Call]:
    """Writes that the API server has seen."""
    return [call for call in case.proxy.writes() if call.status != 0]


def late(case: Case, taken: float) -> list[Call]:
    """Writes after `taken`, when another began to lead, that changed something.

    A Lease is no fence (design record 0016): who is stopped between its look at the clock and its first byte sends that
    byte when it goes on. What another one has changed meanwhile is refused then; an Event changes nothing.
    """
    calls = [call for call in let_through(case) if call.at > taken]
    return [call for call in calls if call.status not in REFUSED and "/events" not in call.path]


def _what(seed: int) -> tuple[int, str]:
    """Scenario and way; every pair comes once in 25 seeds."""
    return seed % len(ALL), WAYS[(seed // len(ALL) + seed) % len(WAYS)]


def _two(bench: Bench, namespace: str, seed: int) -> int:
    scenario, way = ALL[_what(seed)[0]], _what(seed)[1]
    of = bench.reference(scenario)
    chosen = Chosen(of, f"two-operators {seed}")
    args = (f"--lease-seconds={SECONDS}",)
    with (
        Case(bench.server, namespace, *args, patience=bench.patience) as first,
        Other(first, bench.server, *args) as other,
    ):
        struck, healed = False, False

        def begin() -> None:
            first.wait("the first operator to lead", lambda: lease(first).get("holderIdentity") == first.namespace)
            other.start()
            asked = "the second operator to stand by"
            other.wait(asked, lambda: any(call.is_lease and call.status == 200 for call in other.proxy.calls))

        def calls(index: int, call: Call) -> Fault | None:
            nonlocal struck
            operator, before = first.operator, struck
            struck = chosen(index, call) or struck
            if not struck or healed or operator is None:
                return None
            if way == "cut off" or (way == "unable to renew its lease" and call.is_lease):
                return Fault(drop="before")
            number = {"stopped": signal.SIGSTOP, "killed": signal.SIGKILL, "told to end": signal.SIGTERM}.get(way)
            if before or number is None:
                return None
            return Fault(drop="after", then=lambda: operator.kill(number))

        run(first, scenario, calls, begin)
        # On a machine that is busy enough the first one may lose the lease by itself before that.
        assert struck or let_through(other), f"{namespace}: no write number {chosen.number}"
        assert first.proxy.calls, f"{namespace}: the first operator has called nothing"
        deposed = first.operator
        assert deposed is not None
        if struck and way in WAYS[:3]:
            other.wait("the second operator to lead", lambda: lease(first).get("holderIdentity") == other.identity)
            healed = True
            deposed.kill(signal.SIGCONT)
            other.wait("the first one to end", lambda: not deposed.alive or first.starts > 1)
        if theirs := let_through(other):
            both = late(first, theirs[0].at)
            assert not both, f"{namespace}: the first one wrote after the second one had begun: {both}"
        other.assert_quiet(POINT_QUIET_SECONDS)
        judge(first, of.picture, starts=None)
        other.invariants.check()
    return int(struck)


TWO = FaultClass(
    "two-operators", "one of two that are alive is stopped, cut off or ended", lambda bench: 25, _two,
    lambda bench, seed: f"{ALL[_what(seed)[0]].name}, {_what(seed)[1]}",
)  # fmt: skip
