"""What a scrape of the operator says of pools."""

from plan.factory import worker
from vernal_contract.state import Load
from vernal_operator.observe.pool_metrics import load_of


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
