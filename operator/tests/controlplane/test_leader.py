"""Two operators at once: one writes, the other stands by; no moment at which both do, whatever becomes of the first."""

import json
import signal
import time
from collections.abc import Callable

import pytest
from common.ports import free_port
from controlplane.cases import SYSTEM, Case, Server, fetched, pool
from controlplane.proxy import Call, Fault
from controlplane.scenarios import in_parallel
from controlplane.second import SECONDS, Other, late, lease, let_through
from vernal_operator.kinds import EVENTS

pytestmark = pytest.mark.apiserver


LONG = "--lease-seconds=3600"
"""For who gives the lease back at its end, and must not lose it before because the machine had no time for it."""


def alive(case: Case) -> bool:
    return case.operator is not None and case.operator.alive


def test_one_leads_and_the_other_takes_over_when_it_ends(server: Server, make_case: Callable[..., Case]) -> None:
    health, metrics = free_port(), free_port()
    first = make_case(LONG)
    first.start()
    first.create(pool(replicas=1))
    first.wait_settled(1)
    args = (LONG, f"--liveness=http://127.0.0.1:{health}/healthz", f"--metrics-port={metrics}")
    with Other(first, server, *args) as second:
        second.start()
        second.wait("it to ask for the lease", lambda: any(call.status == 200 for call in second.proxy.calls))
        second.wait("it to stand by", lambda: _get(f"http://127.0.0.1:{metrics}/readyz") == "ok\n")
        second.wait("liveness", lambda: _get(f"http://127.0.0.1:{health}/healthz") == '{"controller": "standby"}')
        assert "vernal_operator_leader 0.0" in _get(f"http://127.0.0.1:{metrics}/metrics")
        first.change(replicas=2)
        first.wait_settled(2)
        asked = [str(call) for call in second.proxy.calls if not (call.is_lease or call.is_discovery)]
        assert not asked, "an operator that stands by asks for nothing but the lease"
        assert lease(first)["holderIdentity"] == first.namespace and first.operator is not None
        first.operator.kill(signal.SIGTERM)
        second.wait("the lease to change hands", lambda: lease(first)["holderIdentity"] == f"{first.namespace}-other")
        second.wait("the first one to say so", lambda: "given back" in first.log.read_text())
        second.change(replicas=3)
        second.wait_settled(3)
        assert "vernal_operator_leader 1.0" in _get(f"http://127.0.0.1:{metrics}/metrics")
    said = json.loads(server.client.list_page(EVENTS, SYSTEM, {}))["items"]
    assert {e["note"] for e in said if e["regarding"]["name"] == first.namespace} == {
        f"{first.namespace} leads",
        f"{first.namespace}-other leads",
    }


def test_an_operator_that_the_api_server_cannot_hear_writes_nothing_more(
    server: Server, make_case: Callable[..., Case]
) -> None:
    first = make_case(f"--lease-seconds={SECONDS}")
    first.start()
    first.create(pool(replicas=1))
    first.wait_settled(1)
    with Other(first, server, f"--lease-seconds={SECONDS}") as second:
        second.start()
        first.proxy.fault = lambda call: Fault(drop="before") if call.method != "GET" else None
        first.change(replicas=2)  # it sees that, and cannot write; nor can it renew
        second.wait_settled(2)
        taken = min(call.at for call in let_through(second))
        first.proxy.fault = lambda call: None  # the network is back, and another leads
        first.wait("it to end", lambda: not alive(first))
        assert not late(first, taken)
        assert f"is held by {first.namespace}-other now" in first.log.read_text()
        first.start()
        second.change(replicas=1)
        second.wait_settled(1)
        assert not late(first, taken)


def test_a_leader_that_the_api_server_forgot_for_a_while_goes_on(make_case: Callable[..., Case]) -> None:
    case = make_case(f"--lease-seconds={SECONDS}")
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    renewals: list[float] = []

    def refuse(call: Call) -> Fault | None:
        if call.is_lease:
            renewals.append(call.at)
            return Fault(status=503)
        return None

    case.proxy.fault = refuse
    case.wait("the lease to run out", lambda: bool(renewals) and renewals[-1] - renewals[0] > SECONDS + 1)
    since = time.monotonic()
    case.change(replicas=2)
    case.wait("more renewals", lambda: renewals[-1] > since + 2)
    assert not case.proxy.writes(since), "it does not hold the lease"
    case.proxy.fault = lambda call: None
    case.wait_settled(2)
    assert case.starts == 1 and alive(case)


def test_a_leader_that_is_stopped_in_the_middle_of_a_roll_never_cuts_below_the_floor(server: Server) -> None:
    """Stopped, as a machine stops a process that it has no time for, at each of its first writes; then it goes on."""

    def point(index: int) -> str | None:
        name = f"leader-stopped-{index}"
        with Case(server, name, f"--lease-seconds={SECONDS}") as first:
            try:
                _stopped_at(server, first, index)
            except AssertionError as error:
                return str(error)
        return None

    failed = [error for error in in_parallel(point, range(0, 10, 2)) if error]
    assert not failed, "\n".join(failed)


def _stopped_at(server: Server, first: Case, index: int) -> None:
    first.start()
    first.create(pool(replicas=3))
    first.wait_settled(3)
    first.assert_quiet(1)
    first.expect(most=4, fewest_ready=3)
    leader, before = first.operator, len(first.proxy.writes())
    stopped: list[float] = []
    assert leader is not None

    def not_yet(call: Call) -> Fault | None:
        """Or the second one takes over before that, from a first one that the machine had no time for."""
        return Fault(status=503) if call.is_lease and call.method != "GET" and not stopped else None

    with Other(first, server, f"--lease-seconds={SECONDS}") as second:
        second.proxy.fault = not_yet
        second.start()
        second.wait("it to stand by", lambda: any(call.is_lease and call.status == 200 for call in second.proxy.calls))

        def stop(call: Call) -> Fault | None:
            if call.is_write and call.index - before == index and not stopped:
                stopped.append(time.monotonic())
                return Fault(drop="after", then=lambda: leader.kill(signal.SIGSTOP))
            return None

        first.proxy.fault = stop
        first.change(image="worker:2")
        second.wait("the roll by the second operator", lambda: bool(let_through(second)) and second.settled(3))
        taken = min(call.at for call in let_through(second))
        leader.kill(signal.SIGCONT)
        first.wait("the first to end", lambda: not leader.alive)
        assert stopped and stopped[0] < taken
        assert not late(first, taken), "both wrote"
        second.assert_quiet(1)
        first.invariants.check()


def _get(url: str) -> str:
    try:
        return fetched(url)
    except OSError:
        return ""  # it does not listen yet
