"""The engine's metrics in the program's registry."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, Counter, generate_latest

TEXT = """# HELP vllm:generation_tokens_total Tokens.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model_name="m"} 7.0
# HELP vllm:num_requests_running Requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 2.0
# HELP vllm:latency_seconds Latency.
# TYPE vllm:latency_seconds histogram
vllm:latency_seconds_bucket{le="1.0"} 3.0
vllm:latency_seconds_bucket{le="+Inf"} 3.0
vllm:latency_seconds_count 3.0
vllm:latency_seconds_sum 1.5
# HELP process_open_fds Of the engine's process.
# TYPE process_open_fds gauge
process_open_fds 1234567.0
"""


@pytest.fixture
def answers() -> Iterator[list[str | None]]:
    """What the engine says when it is asked next."""
    from vernal_worker.client.metrics import EngineMetrics

    said: list[str | None] = []
    metrics = EngineMetrics(lambda: said.pop(0))
    metrics.register()
    yield said
    metrics.unregister()
    metrics.unregister()
    assert "vllm:" not in shown()


def shown() -> str:
    return generate_latest(REGISTRY).decode()


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("vllm:")]


def test_what_the_engine_says_is_shown(answers: list[str | None]) -> None:
    answers.append(TEXT)
    text = shown()
    assert lines(text) == lines(TEXT)
    assert "# TYPE vllm:generation_tokens_total counter" in text and "# TYPE vllm:latency_seconds histogram" in text
    assert "1234567" not in text, "the program has metrics of its own process"


def test_an_engine_that_does_not_answer_is_shown_as_it_was(answers: list[str | None]) -> None:
    answers += [None, TEXT, None]
    assert lines(shown()) == []
    assert lines(shown()) == lines(shown()) == lines(TEXT)


def test_an_engine_that_is_gone_with_its_object_shows_nothing(answers: list[str | None]) -> None:
    answers += [TEXT, ""]
    assert lines(shown()) == lines(TEXT)
    assert lines(shown()) == []


def test_another_engine_takes_its_place(answers: list[str | None]) -> None:
    from vllm.v1.metrics.prometheus import unregister_vllm_metrics

    unregister_vllm_metrics()  # which vLLM does before it registers its own
    assert lines(shown()) == []
    theirs = Counter("vllm:other", "Another's.")
    from vernal_worker.client.metrics import EngineMetrics

    metrics = EngineMetrics(lambda: TEXT)
    metrics.register()
    assert lines(shown()) == lines(TEXT), "and ours that of vLLM's"
    metrics.unregister()
    assert theirs not in REGISTRY._collector_to_names
