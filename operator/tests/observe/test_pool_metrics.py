"""What a scrape of the operator says of pools."""

import msgspec
import pytest
from plan.factory import worker
from vernal_contract.state import Load, decode, encode
from vernal_operator.observe.pool_metrics import Growth, load_of


def test_a_pools_load_is_its_workers_together() -> None:
    busy = worker("a", in_flight=9, load=Load(running=6, waiting=3, kv_usage=0.9, pressure=1.5, idle_seconds=0.0))
    idle = worker("b", in_flight=0, load=Load(idle_seconds=30.0))
    assert load_of([busy, idle]) == {
        "vernal_pool_pressure": 0.75,
        "vernal_pool_requests_in_flight": 9,
        "vernal_pool_requests_running": 6,
        "vernal_pool_requests_waiting": 3,
        "vernal_pool_kv_usage_ratio": 0.45,
        "vernal_pool_idle_seconds": 0.0,
    }


def test_nothing_is_said_where_no_worker_says_anything() -> None:
    """A pool without workers has no pressure: 0 would have an autoscaler take away what is being started."""
    assert load_of([]) == {}
    assert load_of([worker("old")]) == {}


@pytest.mark.parametrize("field", ["pressure", "kvUsage"])
@pytest.mark.parametrize("value", ["-0.5", "1e308", "1e999", "NaN"])
def test_numbers_that_would_spoil_everybodys_metrics_are_no_answer(field: str, value: str) -> None:
    """Two of 1e308 have no mean: one pool's workers would make each scrape of the operator fail."""
    said = encode(worker("a", load=Load(pressure=0.125, kv_usage=0.125))).decode()
    assert f'"{field}":0.125' in said
    with pytest.raises(msgspec.DecodeError):
        decode(said.replace(f'"{field}":0.125', f'"{field}":{value}').encode())


def test_the_largest_numbers_have_a_mean() -> None:
    most = worker("a", load=Load(pressure=1e10, kv_usage=1e10))
    assert load_of([decode(encode(most))] * 100)["vernal_pool_pressure"] == 1e10


def done(tokens: int, firsts: int = 0, seconds: float = 0.0) -> Load:
    return Load(generated_tokens=tokens, first_tokens=firsts, first_token_seconds=seconds)


def test_what_workers_have_done_only_grows_while_they_come_and_go() -> None:
    growth = Growth()
    growth.look({"a", "c"}, {"a": done(1000, 10, 5.0)})
    growth.look({"a", "c"}, {"a": done(1000, 10, 5.0), "c": done(5000, 50, 5.0)})
    assert growth.total == (0, 0, 0), "done before anybody looked: no burst of it now"
    growth.look({"a", "b"}, {"a": done(1100, 11, 5.5), "b": done(7, 1, 0.25)})
    assert growth.total == (107, 2, 0.75)
    growth.look({"a", "b"}, {"b": done(8, 1, 0.25)})  # one is silent
    growth.look({"a", "b"}, {"a": done(1101, 11, 5.5), "b": done(8, 1, 0.25)})
    assert growth.total == (109, 2, 0.75), "what it had done before its silence is not counted again"
    growth.look({"b"}, {"b": done(3, 1, 0.125)})  # one is gone, and the container of the other one began anew
    assert growth.total == (112, 3, 0.875)
