"""When the listener closes, when requests are aborted, when everything is gone."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_contract.config import DrainConfig
from vernal_worker.supervisor.drainplan import IMPATIENT_SECONDS, plan, reserve

CONFIG = DrainConfig(propagation_seconds=5, timeout_seconds=90, grace_period_seconds=120)

seconds = st.floats(min_value=0, max_value=1000)
configs = st.builds(DrainConfig, propagation_seconds=seconds, timeout_seconds=seconds, grace_period_seconds=seconds)


def test_a_signal_starts_the_grace_period() -> None:
    result = plan(CONFIG, None, (100.0,))
    assert (result.close_at, result.abort_at, result.exit_by) == (105.0, 195.0, 220.0)


def test_requests_are_aborted_in_time_for_an_orderly_exit() -> None:
    config = DrainConfig(propagation_seconds=5, timeout_seconds=1000, grace_period_seconds=120)
    result = plan(config, None, (0.0,))
    assert result.abort_at == 120 - reserve(120) and result.exit_by == 120


def test_a_drain_over_http_has_no_grace_period_until_a_signal_comes() -> None:
    config = DrainConfig(propagation_seconds=5, timeout_seconds=1000, grace_period_seconds=30)
    assert plan(config, 0.0, ()).abort_at == 1005
    assert plan(config, 0.0, (500.0,)).abort_at == 500 + 30 - reserve(30)


def test_the_listener_closes_by_the_first_wish() -> None:
    assert plan(CONFIG, 0.0, (100.0,)).close_at == 5
    assert plan(CONFIG, 101.0, (100.0,)).close_at == 105


def test_more_signals_shorten_the_wait() -> None:
    two = plan(CONFIG, None, (0.0, 1.0))
    assert two.close_at == 1 and two.abort_at == 1 + IMPATIENT_SECONDS
    three = plan(CONFIG, None, (0.0, 1.0, 2.0))
    assert three.abort_at == three.exit_by == 2


def test_nobody_asked() -> None:
    with pytest.raises(ValueError, match="no drain"):
        plan(CONFIG, None, ())


@given(configs, st.none() | seconds, st.lists(seconds, max_size=4))
def test_the_order_holds_and_wishes_only_shorten(
    config: DrainConfig, asked_at: float | None, instants: list[float]
) -> None:
    signals = tuple(sorted(instants))
    plans = [
        plan(config, asked_at, signals[:count]) for count in range(len(signals) + 1) if count or asked_at is not None
    ]
    for each in plans:
        assert each.close_at <= each.abort_at <= each.kill_at <= max(each.exit_by, each.abort_at)
    for before, after in itertools.pairwise(plans):
        assert after.close_at <= before.close_at
        assert after.abort_at <= before.abort_at
    if signals:
        assert plans[-1].exit_by <= signals[0] + config.grace_period_seconds + 1e-9
