"""Prometheus metrics that count what the operator does (`vernal_operator_`) and sees happen (`vernal_pool_`); times are
in seconds. How pools and checkpoints are is in `vernal_operator.observe.inventory` and `.pool_metrics`.
"""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

API_REQUESTS = Counter(
    "vernal_operator_api_requests",
    "Calls to the API server. code is the HTTP status, or 0 if no answer came.",
    ["verb", "resource", "code"],
)
WATCH_ENDS = Counter(
    "vernal_operator_watch_ends",
    "Ends of watches, by reason: closed, expired, failed, error.",
    ["resource", "reason"],
)
LISTS = Counter("vernal_operator_lists", "Complete lists of a kind (the first one and every relist).", ["resource"])
CACHED = Gauge("vernal_operator_cached_objects", "Objects in the operator's caches.", ["resource"])
LEADER = Gauge("vernal_operator_leader", "1 while this operator holds the Lease and may write, 0 while it stands by.")
RECONCILES = Counter(
    "vernal_operator_reconciles",
    "Reconciles by result: settled (nothing to do), changed, refused (a write is), failed.",
    ["kind", "result"],
)
RECONCILE_SECONDS = Histogram(
    "vernal_operator_reconcile_duration_seconds",
    "Duration of a reconcile, API calls included.",
    ["kind"],
    buckets=_FAST,
)
QUEUE_SECONDS = Histogram(
    "vernal_operator_queue_wait_seconds", "How long a key that is due waits for a free worker.", buckets=_FAST
)
QUEUE_DEPTH = Gauge("vernal_operator_queue_depth", "Keys that are due and wait.")
WRITE_FAILURES = Counter(
    "vernal_operator_write_failures",
    "Writes that failed: by the API server's reason if they are just tried again, by the condition's if refused.",
    ["verb", "resource", "reason"],
)
STATE_READS = Counter(
    "vernal_operator_worker_state_reads",
    "Reads of GET /state on workers, by result: ok, unreachable, timeout, refused, invalid; and doubted, of those that "
    "are ok but whose identity is not that of its inputs, or not one that its pool made (these once a revision).",
    ["result"],
)
WAKE_READS = Counter(
    "vernal_operator_wake_reads",
    "Reads of GET /wakes on wakers, one a waker for each traced start from zero, by result: ok, failed.",
    ["result"],
)
EVENTS_DROPPED = Counter(
    "vernal_operator_events_dropped", "Kubernetes Events that were refused and given up.", ["reason"]
)
ROLLBACKS = Counter(
    "vernal_operator_rollbacks",
    "Revisions that were rejected because they were not proven in time (ProgressDeadlineExceeded).",
    ["namespace", "pool"],
)
POOL_STARTS = Counter(
    "vernal_pool_starts",
    "Workers that became ready and an endpoint of their pool, by how they started.",
    ["namespace", "pool", "mode"],
)
START_SECONDS = Histogram(
    "vernal_pool_start_seconds",
    "Where the seconds of a start go (observe/starts.py), over all pools, by phase and by how it started.",
    ["phase", "mode"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0),
)
SPANS = Counter(
    "vernal_operator_spans",
    "Spans of traced starts, by what became of them: sent, failed (the collector did not take them), dropped (too many "
    "waited for it).",
    ["result"],
)
ORPHANS = Gauge(
    "vernal_operator_orphans",
    "Artifacts on a claim that no VLLMCheckpoint of its namespace is of, when a janitor looked last.",
    ["namespace", "claim"],
)
PREFETCHES = Counter(
    "vernal_operator_prefetches",
    "Jobs that fetch a checkpoint into a node's cache, by what became of them: Fetched, FetchedEvicting (others' files "
    "made room), Full, Failed.",
    ["result"],
)
RENEWALS = Counter(
    "vernal_operator_renewals",
    "New checkpoints that pools were asked for (annotation vernal.dev/renew-checkpoint), by outcome: Renewed, Failed.",
    ["namespace", "pool", "outcome"],
)


def forget_pool(namespace: str, pool: str) -> None:
    """The pool is gone, and with it what was counted of it: names that never come back must not pile up."""
    for counter in (ROLLBACKS, POOL_STARTS, RENEWALS):
        counter.remove_by_labels({"namespace": namespace, "pool": pool})
