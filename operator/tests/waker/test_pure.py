"""What the waker decides, without I/O: bounds, routes, and what goes through."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from vernal_waker import relay
from vernal_waker.admission import SMALL_HEADER, Admission, Bounds, Refusal, Ticket
from vernal_waker.relay import Next
from vernal_waker.routes import PoolName, Slice, table

A, B = PoolName("ns", "a"), PoolName("ns", "b")


class Holding(RuleBasedStateMachine):
    """Requests come, grow and go in any order, some of them twice."""

    @initialize(
        requests=st.integers(1, 6), per_pool=st.integers(1, 6), size=st.integers(0, 50), body=st.integers(0, 50)
    )
    def begin(self, requests: int, per_pool: int, size: int, body: int) -> None:
        self.admission = Admission(Bounds(requests, per_pool, size, body))
        self.held: list[Ticket] = []
        self.gone: list[Ticket] = []

    @rule(pool=st.sampled_from("abc"), length=st.integers(0, 30), header=st.integers(0, SMALL_HEADER // 2 + 8))
    def comes(self, pool: str, length: int, header: int) -> None:
        before = (self.admission.requests, self.admission.size, self.admission.of(pool))
        found = self.admission.enter(pool, length, header)
        header = max(0, 2 * header - SMALL_HEADER)
        if isinstance(found, Ticket):
            self.held.append(found)
        else:
            assert before == (self.admission.requests, self.admission.size, self.admission.of(pool))
            bounds = self.admission.bounds
            assert {
                Refusal.REQUESTS: before[0] >= bounds.requests,
                Refusal.POOL: before[2] >= bounds.per_pool,
                Refusal.BODY: length > bounds.body,
                Refusal.POOL_BYTES: sum(t.size for t in self.held if t.pool == pool) + header + length
                > bounds.pool_size,
                Refusal.BYTES: before[1] + header + length > bounds.size,
            }[found], f"{found} though there is room"

    @rule(data=st.data(), length=st.integers(0, 30))
    def grows(self, data: Any, length: int) -> None:
        if self.held:
            ticket = data.draw(st.sampled_from(self.held))
            before = ticket.size
            refused = self.admission.grow(ticket, length)
            assert ticket.size == before + (0 if refused else length)

    @rule(data=st.data())
    def goes(self, data: Any) -> None:
        if self.held:
            self.gone.append(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))
            self.admission.leave(self.gone[-1])

    @rule(data=st.data())
    def goes_again(self, data: Any) -> None:
        if self.gone:
            self.admission.leave(data.draw(st.sampled_from(self.gone)))

    @invariant()
    def what_is_counted_is_what_is_held_and_no_more_than_may_be(self) -> None:
        if not hasattr(self, "admission"):
            return
        bounds, found = self.admission.bounds, self.admission
        assert found.requests == len(self.held) <= bounds.requests
        assert found.size == sum(ticket.size for ticket in self.held) <= bounds.size
        assert all(ticket.size - ticket.header <= bounds.body for ticket in self.held)
        for pool in "abc":
            assert found.of(pool) == sum(ticket.pool == pool for ticket in self.held) <= bounds.per_pool
            assert sum(ticket.size for ticket in self.held if ticket.pool == pool) <= bounds.pool_size


TestHolding = Holding.TestCase


def test_a_pool_that_does_not_start_leaves_room_for_the_others() -> None:
    admission = Admission(Bounds(requests=4, per_pool=2, size=1000, body=300))
    first, second = admission.enter("a", 300), admission.enter("a", 200)
    assert isinstance(first, Ticket) and isinstance(second, Ticket)
    assert admission.grow(first, 300) is None and admission.grow(second, 200) is None
    assert admission.grow(second, 1) is Refusal.POOL_BYTES
    assert isinstance(admission.enter("b", 300), Ticket)
    admission.leave(first)
    assert admission.grow(second, 1) is None


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(), 128 << 20),
        (Bounds(requests=10, per_pool=20, size=1000, body=10), 1000),  # no bound of one pool's
        (Bounds(requests=10, per_pool=1, size=1000, body=500), 500),  # room for one body
        (Bounds(requests=10, per_pool=1, size=400, body=500), 400),
    ],
)
def test_the_part_of_one_pool(bounds: Bounds, expected: int) -> None:
    assert bounds.pool_size == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Connection", "Upgrade"), ("Upgrade", "websocket")], True),
        ([("Connection", "keep-alive, upgrade"), ("Upgrade", "h2c, WebSocket")], True),
        ([("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")], False),
        ([("Upgrade", "websocket")], False),
        ([("Connection", "x-no-upgrade"), ("Upgrade", "websocket")], False),
    ],
)
def test_who_wants_another_protocol(headers: list[tuple[str, str]], expected: bool) -> None:
    assert relay.is_websocket(headers) is expected


def test_a_pool_is_known_by_the_port_of_its_wakers_slice() -> None:
    found = table(
        [
            Slice(A, True, ("10.0.0.1",), 20001),
            Slice(A, False, ("10.0.1.2", "10.0.1.1"), 8000),
            Slice(A, False, ("10.0.1.3",), 8000),
            Slice(B, True, (), 20002),
            Slice(PoolName("ns", "always-on"), False, ("10.0.1.9",), 8000),
        ]
    )
    assert set(found.routes) == {A, B}
    assert found.routes[A].stands and not found.routes[B].stands
    assert found.routes[A].targets == (("10.0.1.1", 8000), ("10.0.1.2", 8000), ("10.0.1.3", 8000))
    assert found.by_port() == {20001: A, 20002: B}


def test_a_port_of_two_pools_is_nobodys() -> None:
    found = table([Slice(A, True, ("1",), 20001), Slice(B, True, ("1",), 20001)])
    assert found.by_port() == {}


slices = st.builds(
    Slice,
    st.sampled_from([A, B, PoolName("other", "a")]),
    st.booleans(),
    st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), unique=True).map(tuple),
    st.sampled_from([None, 8000, 20001, 20002]),
)


@given(st.lists(slices))
def test_no_request_reaches_a_worker_of_another_pool(given_: list[Slice]) -> None:
    for pool, route in table(given_).routes.items():
        for address, port in route.targets:
            assert any(s.pool == pool and not s.for_waker and address in s.ready and s.port == port for s in given_)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, Next.ANSWER),
        (503, {}, Next.ANSWER),  # the engine's own, or of a request that was ended: something may have been done
        (503, {"x-vernal-not-accepted": "1"}, Next.ELSEWHERE),
        (401, {"x-vernal-not-accepted": "1"}, Next.ANSWER),
    ],
)
def test_which_answers_are_handed_on(status: int, headers: dict[str, str], expected: Next) -> None:
    assert relay.after_answer(status, headers) is expected


def test_nothing_is_sent_again_that_may_have_been_done() -> None:
    assert relay.after_failure(connected=False) is Next.ELSEWHERE
    assert relay.after_failure(connected=True) is Next.GIVE_UP


def test_headers_of_one_connection_stay_there() -> None:
    given_ = [
        ("Host", "api.example.com"),
        ("Authorization", "Bearer x"),
        ("Connection", "keep-alive, X-Secret"),
        ("X-Secret", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "5"),
        ("Expect", "100-continue"),
        ("Accept", "text/event-stream"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
    ]
    assert relay.request_headers(given_) == [given_[0], given_[1], *given_[7:]]
    assert ("Content-Length", "5") in relay.answer_headers(given_)
