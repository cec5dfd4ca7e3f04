"""When to close the listener and when to abort what is left: pure, on any clock in seconds."""

import msgspec
from vernal_contract.config import DrainConfig

IMPATIENT_SECONDS = 5.0
"""A second signal leaves requests in flight this long."""

KILL_SECONDS = 3.0
"""Of the reserve, for killing and reaping what did not exit; less where the reserve is short."""


class DrainPlan(msgspec.Struct, frozen=True):
    """Instants on the caller's clock; `close_at <= abort_at <= kill_at <= exit_by`."""

    close_at: float  # stop accepting
    abort_at: float  # end what is still in flight
    kill_at: float  # kill what has not exited, however much time its KV transfers still want
    exit_by: float  # everything is gone, by force if need be


def reserve(grace: float) -> float:
    """Seconds of the grace period that are kept for aborting, stopping the engine and reaping its
    processes."""
    return min(15.0, grace / 4)


def plan(config: DrainConfig, asked_at: float | None, signals: tuple[float, ...]) -> DrainPlan:
    """The plan as of now; it only ever gets shorter as more signals come.

    The grace period runs from the first signal, since that is when the kubelet starts to count; a drain that
    was asked for over HTTP has no such limit until then.

    Args:
        asked_at: when `POST /drain` came, if it did.
        signals: when SIGTERM or SIGINT came.

    Raises:
        ValueError: nobody asked for a drain.
    """
    instants = [instant for instant in (asked_at, *signals[:1]) if instant is not None]
    if not instants:
        raise ValueError("no drain was asked for")
    close_at = min(instants) + config.propagation_seconds
    abort_at = close_at + config.timeout_seconds
    exit_by = abort_at + reserve(config.grace_period_seconds)
    if signals:
        exit_by = signals[0] + config.grace_period_seconds
        abort_at = min(abort_at, exit_by - reserve(config.grace_period_seconds))
    if len(signals) > 1:
        close_at = min(close_at, signals[1])
        abort_at = min(abort_at, signals[1] + IMPATIENT_SECONDS)
    if len(signals) > 2:
        abort_at = exit_by = min(abort_at, signals[2])
    kill_at = max(abort_at, exit_by - min(KILL_SECONDS, reserve(config.grace_period_seconds) / 2))
    return DrainPlan(close_at=min(close_at, abort_at), abort_at=abort_at, kill_at=kill_at, exit_by=exit_by)
