"""Three hours of two pools, invented: `ml/qwen` follows its load and is rolled, `ml/llama` starts cold.

The series are those that are exported. Where a registry has the label value `any`, or one pod, here are real ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

MINUTES = 180
Labels = dict[str, str]
Values = str
"""In promtool's notation, a value a minute."""


def steps(*parts: tuple[float, int]) -> Values:
    """Each value for so many minutes; the last one stays."""
    return " ".join(f"{value:g}x{minutes - 1}" for value, minutes in (*parts, (parts[-1][0], MINUTES)))


def grows(*parts: tuple[float, int]) -> Values:
    """A counter that grows by so much a minute, for so many minutes; the last rate stays."""
    total, out = 0.0, []
    for rate, minutes in (*parts, (parts[-1][0], MINUTES)):
        out.append(f"{total:g}+{rate:g}x{minutes - 1}")
        total += rate * minutes
    return " ".join(out)


def bucket(rate: float, median: float, le: str) -> Values:
    """Of a histogram (log-logistic) with so many observations a minute."""
    share = 1.0 if le == "+Inf" else 1 / (1 + (median / float(le)) ** 3)
    return grows((round(rate * share, 6), MINUTES))


Told = list[tuple[Labels, Values]]
QWEN, LLAMA = {"namespace": "ml", "pool": "qwen"}, {"namespace": "ml", "pool": "llama"}
PODS = {f"qwen-7d3f21aa-{slot}": QWEN for slot in range(3)} | {"llama-0c9e4b12-0": LLAMA}
CHECKPOINT = {"namespace": "ml", "checkpoint": "0f3a9c51d2e7-51c7a0de"}
_UP, _DOWN = (2, 45), (3, 75)


def _pools(qwen: Values, llama: Values) -> Told:
    return [(QWEN, qwen), (LLAMA, llama)]


def _pods(tell: Callable[[int], Values]) -> Told:
    return [({**pool, "pod": pod}, tell(number)) for number, (pod, pool) in enumerate(PODS.items())]


def _each(label: str, **values: Values) -> Told:
    return [({label: name}, value) for name, value in values.items()]


def _phases(scale: float) -> Told:
    seconds = {"criu": 1.4, "files": 0.3, "images": 0.2, "memory": 0.9, "verify": 0.8, "weights": 1.9}
    return [
        ({**pool, "pod": pod, "phase": phase}, steps((value * scale * (1 + number / 10), MINUTES)))
        for number, (pod, pool) in enumerate(PODS.items())
        for phase, value in seconds.items()
    ]


def _conditions(of: Labels, **types: Values) -> Told:
    return [({**of, "type": name, "reason": "Any"}, values) for name, values in types.items()]


_ALWAYS, _NEVER = steps((1, MINUTES)), steps((0, MINUTES))
TOLD: dict[str, Told] = {
    "vernal_pool_desired_replicas": _pools(steps(_UP, _DOWN, (2, 1)), _ALWAYS),
    "vernal_pool_replicas": _pools(steps(_UP, (4, 15), (3, 60), (2, 1)), _ALWAYS),
    "vernal_pool_ready_replicas": _pools(steps((2, 47), (3, 73), (2, 1)), steps((0, 6), (1, 1))),
    "vernal_pool_updated_replicas": _pools(steps((2, 45), (0, 3), (1, 4), (2, 4), (3, 64), (2, 1)), _ALWAYS),
    "vernal_pool_restored_replicas": _pools(steps((1, 47), (3, 73), (2, 1)), _NEVER),
    "vernal_pool_cold_started_replicas": _pools(steps((1, 47), (0, 1)), steps((0, 6), (1, 1))),
    "vernal_pool_pressure": _pools(steps((0.4, 20), (0.7, 20), (1.3, 6), (0.8, 74), (0.3, 1)), steps((0, 9), (0.2, 1))),
    "vernal_pool_condition": [
        *_conditions(QWEN, Ready=steps((1, 45), (0, 3), (1, 1)), CheckpointReady=_ALWAYS,
                     Progressing=steps((0, 45), (1, 15), (0, 1)), Degraded=_NEVER),
        *_conditions(LLAMA, Ready=steps((0, 6), (1, 1)), CheckpointReady=steps((0, 8), (1, 1)),
                     Progressing=steps((1, 8), (0, 1)), Degraded=steps((0, 90), (1, 20), (0, 1))),
    ],
    "vernal_pool_start_seconds_bucket": [
        ({"phase": phase, "mode": mode}, f"{rate} {median}")
        for mode, rate, factor in (("Restored", 0.2, 1.0), ("Cold", 0.05, 9.0))
        for phase, median in (
            ("operator", 0.03), ("schedule", 0.05), ("kubelet", 0.9), ("worker", 3 * factor), ("endpoint", 0.05)
        )
    ],
    "vernal_checkpoint_size_bytes": [(CHECKPOINT, steps((16.4e9, MINUTES)))],
    "vernal_checkpoint_shared_bytes": [(CHECKPOINT, steps((15.2e9, MINUTES)))],
    "vernal_checkpoint_restores_total": [(CHECKPOINT, grows((0.02, 45), (0.4, 15), (0.02, 1)))],
    "vernal_checkpoint_restore_failures_total": [(CHECKPOINT, grows((0, 100), (0.1, 10), (0, 1)))],
    "vernal_checkpoint_condition": _conditions(
        CHECKPOINT, Ready=steps((1, 110), (0, 8), (1, 1)), Failed=_NEVER, Quarantined=steps((0, 110), (1, 8), (0, 1))
    ),
    "vernal_operator_leader": [({}, _ALWAYS)],
    "vernal_operator_queue_depth": [({}, steps((0, 45), (3, 3), (0, 57), (2, 4), (0, 1)))],
    "vernal_operator_cached_objects": _each(
        "resource", vllmworkerpools=steps((2, 180)), pods=steps((5, 45), (7, 75), (5, 1))
    ),
    "vernal_operator_reconciles_total": [
        ({"kind": kind, "result": result}, grows((rate, 45), (rate * 6, 15), (rate, 1)))
        for kind, rate in (("VLLMWorkerPool", 12.0), ("VLLMCheckpoint", 4.0))
        for result, rate in (("settled", rate), ("changed", rate / 5))
    ],
    "vernal_operator_reconcile_duration_seconds_bucket": [
        ({"kind": "VLLMWorkerPool"}, "14 0.02"), ({"kind": "VLLMCheckpoint"}, "5 0.008")
    ],
    "vernal_operator_queue_wait_seconds_bucket": [({}, "19 0.01")],
    "vernal_operator_api_requests_total": [
        ({"verb": verb, "code": code, "resource": "pods"}, grows((rate, 45), (rate * 5, 15), (rate, 1)))
        for verb, code, rate in (
            ("get", "200", 6.0), ("watch", "200", 1.0), ("patch", "200", 3.0), ("create", "201", 0.5)
        )
    ],
    "vernal_operator_write_failures_total": [
        ({"verb": "create", "resource": "pods", "reason": "QuotaExceeded"}, grows((0, 90), (1, 20), (0, 1)))
    ],
    "vernal_operator_worker_state_reads_total": _each(
        "result", ok=grows((36, 1)), timeout=grows((0, 60), (2, 5), (0, 1))
    ),
    "vernal_operator_watch_ends_total": [({"resource": "pods", "reason": "closed"}, grows((0.2, 1)))],
    "vernal_operator_lists_total": [({"resource": "pods"}, grows((0.02, 1)))],
    "vernal_operator_rollbacks_total": [(QWEN, grows((0, 100), (1, 1), (0, 1)))],
    "vernal_operator_events_dropped_total": [({"reason": "Forbidden"}, grows((0, 1)))],
    "vernal_waker_requests_held": _pools(_NEVER, steps((3, 2), (8, 4), (0, 1))),
    "vernal_worker_start_info": [
        ({**QWEN, "pod": pod, "mode": "Restored", "reason": "Restored"}, _ALWAYS) for pod in list(PODS)[:3]
    ] + [({**LLAMA, "pod": list(PODS)[3], "mode": "Cold", "reason": "NoCheckpoint"}, _ALWAYS)],
    "vernal_worker_start_seconds": _pods(lambda n: steps(((5.1, 5.4, 5.2, 58.0)[n], MINUTES))),
    "vernal_worker_phase_seconds": _phases(1.0),
    "vernal_worker_freeze_info": [({**LLAMA, "pod": list(PODS)[3], "outcome": "Published", "reason": ""}, _ALWAYS)],
    "vernal_worker_restore_failures_total": [
        ({**QWEN, "pod": list(PODS)[1], "stage": "verify", "reason": "DigestMismatch"}, steps((0, 100), (1, 1)))
    ],
    "vernal_worker_ready": _pods(
        lambda n: steps((0, 6), (1, 1)) if n == 3 else steps((int(n < 2), 47), (1, 73), (int(n < 2), 1))
    ),
    "vernal_worker_draining": _pods(lambda n: steps((0, 120), (int(n == 2), 4), (0, 1))),
    "vernal_worker_drain_remaining_seconds": [({**QWEN, "pod": list(PODS)[2]}, f"_x119 90-20x4 {steps((0, 1))}")],
    "vernal_worker_requests_in_flight": _pods(lambda n: steps((6 + n, 45), (14 - n, 75), (4, 2), (2, 2), (5 - n, 1))),
    "vernal_worker_requests_accepted_total": _pods(lambda n: grows((60 + 5 * n, 45), (200, 75), (50, 1))),
    "vernal_worker_requests_aborted_total": [({**QWEN, "pod": list(PODS)[2]}, steps((0, 122), (1, 1)))],
    "vllm:num_requests_running": _pods(lambda n: steps((6 + n, 45), (12 - n, 75), (4 - n, 1))),
    "vllm:num_requests_waiting": _pods(lambda n: steps((0, 40), (5 - n, 6), (1, 74), (0, 1))),
    "vllm:kv_cache_usage_perc": _pods(lambda n: steps((0.3, 40), (0.8 - n / 10, 80), (0.2, 1))),
    "vllm:time_to_first_token_seconds_bucket": _pods(lambda n: f"{120 - 20 * n} {0.08 + 0.02 * n}"),
    "vernal_kv_lookup_tokens_total": [
        ({**QWEN, "result": result}, grows((rate, 1))) for result, rate in (("hit", 90e3), ("miss", 30e3))
    ],
    "vernal_kv_bytes_total": [
        ({**QWEN, "direction": name}, grows((rate, 1))) for name, rate in (("load", 6e9), ("save", 2e9))
    ],
    "vernal_kv_saves_total": [
        ({**QWEN, "outcome": name}, grows((rate, 1))) for name, rate in (("saved", 900.0), ("failed", 2.0))
    ],
    "vernal_kv_load_failures_total": [({**QWEN, "kind": "missing"}, grows((1, 1)))],
    "vernal_kv_evicted_blocks_total": [(QWEN, grows((0, 90), (300, 1)))],
    "vernal_kv_pauses_total": [({**QWEN, "reason": "StorageGone"}, grows((0, 100), (1, 2), (0, 1)))],
}  # fmt: skip
"""By name of the series."""


def told(exported: Iterable[tuple[str, str, bool]]) -> Iterator[tuple[str, Values]]:
    """The series of the story, each made of one that is exported: its labels, with the story's values for some."""
    seen: set[str] = set()
    for name, series, _ in exported:
        if name not in TOLD:
            continue
        own = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', series))
        for labels, values in TOLD[name]:
            assert labels.keys() <= own.keys(), f"{name} is exported without a label of {sorted(labels)}: {series}"
            merged = own | labels
            text = ",".join(f'{key}="{value}"' for key, value in sorted(merged.items()))
            whole = f"{name}{{{text}}}"
            if whole not in seen:
                seen.add(whole)
                yield whole, _bucket(values, merged["le"]) if name.endswith("_bucket") else values


def _bucket(values: Values, le: str) -> Values:
    rate, median = map(float, values.split())
    return bucket(rate, median, le)
