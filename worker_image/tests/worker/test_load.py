"""What a real worker tells autoscalers: right after a thaw, under load, and when all its clients have gone."""

import re
from collections.abc import Callable

from patience import until
from vernal_contract.state import Load
from worker_pod import HELD, Pod

OF_REQUESTS = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


def value(pod: Pod, name: str) -> float:
    """A gauge without labels, or with those of vLLM's only engine. Waits until it is told: what comes from the engine
    is left out until it answers."""

    def told() -> list[str]:
        return re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", pod.engine_metrics(), re.MULTILINE)

    (found,) = until(name, told, more=pod.log)
    return float(found)


def load(pod: Pod) -> Load:
    """Waits until it is told."""
    return until("the load", lambda: pod.state().load, more=pod.log)


def test_a_thawed_worker_tells_what_an_endpoint_picker_scrapes(thawed: Callable[..., Pod]) -> None:
    """On the serving port; names and labels are of the Gateway API Inference Extension's model server protocol."""
    pod = thawed()
    status, body = pod.ask("GET", "/metrics")
    text = body.decode()
    assert status == 200
    for name in OF_REQUESTS:
        assert re.search(rf"^{re.escape(name)}\{{", text, re.MULTILINE), f"{name} is not there"
    (cache,) = re.findall(r"^vllm:cache_config_info\{(.*)\} ", text, re.MULTILINE)
    for label in ("block_size", "num_gpu_blocks"):
        assert re.search(rf'\b{label}="[1-9]\d*"', cache), f"{label}: {cache}"


def test_load_is_told_from_the_thaw_to_the_moment_when_all_clients_have_gone(thawed: Callable[..., Pod]) -> None:
    pod = thawed()
    for name in (*OF_REQUESTS, "vernal_worker_pressure", "vernal_worker_requests_in_flight"):
        assert value(pod, name) == 0, f"{name} tells of the worker that was frozen"
    assert load(pod).idle_seconds < pod.state().uptime, "idle before it served"
    for name in ("vllm:time_to_first_token_seconds_count", "vllm:generation_tokens_total"):
        assert value(pod, name) == 0

    pod.complete(max_tokens=5)
    assert value(pod, "vllm:generation_tokens_total") == 5
    assert value(pod, "vllm:time_to_first_token_seconds_count") == 1

    pod.hold()
    streams = [pod.stream(prompt=str(n), max_tokens=50, vllm_xargs={"hold": HELD}) for n in range(6)]
    until("6 requests in flight", lambda: pod.in_flight() == 6, more=pod.log)
    until("pressure", lambda: value(pod, "vernal_worker_pressure") > 0, more=pod.log)
    until("no idleness", lambda: load(pod).idle_seconds == 0, more=pod.log)

    for stream in streams:
        stream.close()
    pod.release()
    until("nothing in flight", lambda: pod.in_flight() == 0, more=pod.log)
    for name in ("vernal_worker_pressure", *OF_REQUESTS):
        until(f"{name} to be 0", lambda name=name: value(pod, name) == 0, more=pod.log)  # type: ignore[misc]
    until("idleness", lambda: load(pod).idle_seconds > 0, more=pod.log)
    pod.complete(max_tokens=5)
