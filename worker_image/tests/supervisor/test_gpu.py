"""Engines on GPUs that cannot be frozen are told apart before anything starts."""

from typing import Any

import pytest
from vernal_worker.supervisor.engine_args import unfreezable


@pytest.mark.parametrize(
    "arguments",
    [{}, {"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}, {"distributed_executor_backend": "mp"}],
)
def test_what_can_be_frozen(arguments: dict[str, Any]) -> None:
    assert unfreezable(arguments) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"tensor_parallel_size": 8},
        {"pipeline_parallel_size": 8},
        {"tensor_parallel_size": 2, "pipeline_parallel_size": 4},
        {"data_parallel_size": 2},
        {"distributed_executor_backend": "ray"},
    ],
)
def test_what_cannot_is_named(arguments: dict[str, Any]) -> None:
    for name in arguments:
        assert f"engineArgs.{name}" in (unfreezable(arguments) or "")
