"""By which port the waker knows a pool: one a pool, and the same over restarts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_operator.kinds import POOLS, Key
from vernal_operator.observe import wakers
from vernal_operator.observe.cache import Cache, Entry
from vernal_operator.observe.views import SLICES_READER, SliceView
from vernal_operator.observe.wakers import FIRST_PORT, PORTS, Ports, Wakers


def key(name: str, namespace: str = "ns") -> Key:
    return Key(POOLS, namespace, name)


def caches(*written: tuple[str, int], for_waker: bool = True) -> Cache[SliceView]:
    found: Cache[SliceView] = Cache(lambda old, new: None)
    for version, (pool, port) in enumerate(written, 1):
        view = SliceView("u", "h", None, service=pool, for_waker=for_waker, ready=(), port=port)
        found.seen(Entry("ns", f"{pool}-waker", "u", version, pool, "o", view))
    return found


@given(st.lists(st.text(min_size=1, max_size=5), max_size=30, unique=True))
def test_each_pool_has_a_port_of_its_own_and_keeps_it(names: list[str]) -> None:
    ports, empty = Ports(), caches()
    first = {name: ports.of(key(name), empty) for name in names}
    assert len(set(first.values())) == len(names)
    assert all(FIRST_PORT <= port < FIRST_PORT + PORTS for port in first.values())
    assert {name: ports.of(key(name), empty) for name in reversed(names)} == first


def test_pools_of_one_name_in_two_namespaces_are_two() -> None:
    ports = Ports()
    assert ports.of(key("p", "a"), caches()) != ports.of(key("p", "b"), caches())


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(FIRST_PORT, FIRST_PORT + 5), max_size=8))
def test_what_is_written_is_kept_after_a_restart_and_never_given_twice(written: dict[str, int]) -> None:
    ports, seen = Ports(), caches(*written.items())
    given_ = {name: ports.of(key(name), seen) for name in "abcdefghij"}
    assert len(set(given_.values())) == len(given_)
    for name, port in written.items():
        if list(written.values()).count(port) == 1:
            assert given_[name] == port


def test_ports_of_workers_are_not_the_wakers() -> None:
    assert Ports().of(key("p"), caches(("p", 8000), for_waker=False)) != 8000


def test_a_port_comes_back_with_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakers, "PORTS", 2)
    now = 0.0
    ports, empty = Ports(lambda: now), caches()
    was = ports.of(key("a"), empty)
    ports.of(key("b"), empty)
    with pytest.raises(RuntimeError, match="taken"):
        ports.of(key("c"), empty)
    ports.forget(key("a"))
    with pytest.raises(RuntimeError, match="taken"):
        ports.of(key("c"), empty)  # a node may still lead clients of the other one there
    assert ports.of(key("a"), empty) == was, "whose it was may have it"
    ports.forget(key("a"))
    now = wakers.REST_SECONDS
    assert ports.of(key("c"), empty) == was


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([], ((), False)),
        ([("IPv4", ("10.0.0.2",)), ("IPv4", ("10.0.0.1",))], (("10.0.0.1", "10.0.0.2"), False)),
        ([("IPv6", ("fd00::1",))], (("fd00::1",), True)),
        ([("IPv6", ())], ((), True)),
        ([("IPv6", ("fd00::1",)), ("IPv4", ("10.0.0.1",))], (("10.0.0.1",), False)),
        ([("IPv6", ("fd00::1",)), ("IPv4", ())], (("fd00::1",), True)),
    ],
)
def test_the_wakers_addresses_are_of_one_family(
    slices: list[tuple[str, tuple[str, ...]]], expected: tuple[tuple[str, ...], bool]
) -> None:
    found = Wakers(None, "sys", "w", lambda: None, silence=1.0)  # type: ignore[arg-type]
    for number, (family, ready) in enumerate(slices):
        view = SliceView("u", "h", None, address_type=family, service="w", ready=ready)
        found._cache.seen(Entry("sys", f"w-{number}", f"u{number}", number + 1, "", "", view))
    told = found.of(key("p"), caches())
    assert told is not None and (told.addresses, told.ipv6) == expected


def slice_(**fields: Any) -> SliceView:
    labels = {"vernal.dev/pool": "p", "kubernetes.io/service-name": "p"} | fields.pop("labels", {})
    meta = {"name": "p-x", "namespace": "ns", "uid": "u", "resourceVersion": "1", "labels": labels}
    entry = SLICES_READER.convert({"metadata": meta, "addressType": "IPv4", "endpoints": None, "ports": None} | fields)
    assert entry is not None and entry.group == "p"
    return entry.view


@pytest.mark.parametrize(
    ("conditions", "leads"),
    [
        (None, True),  # unknown is ready, by the API's own word
        ({}, True),
        ({"ready": True}, True),
        ({"ready": True, "terminating": True}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": False}, False),
    ],
)
def test_which_endpoints_take_requests(conditions: dict[str, bool] | None, leads: bool) -> None:
    endpoint = {"addresses": ["10.0.0.1"]} | ({} if conditions is None else {"conditions": conditions})
    found = slice_(endpoints=[endpoint], ports=[{"name": "http", "port": 8000}])
    assert found.ready == (("10.0.0.1",) if leads else ()) and found.port == 8000 and not found.for_waker


def test_the_wakers_slice_is_told_by_its_label() -> None:
    assert slice_(labels={"vernal.dev/component": "waker"}).for_waker
    assert slice_().ready == () and slice_().port is None
