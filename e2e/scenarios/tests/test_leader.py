"""What is read from the operator's metrics and log."""

from scenarios.leader import Operator

METRICS = """\
# HELP vernal_operator_api_requests_total Calls to the API server.
# TYPE vernal_operator_api_requests_total counter
vernal_operator_api_requests_total{code="200",resource="pods",verb="list"} 3.0
vernal_operator_api_requests_total{code="403",resource="pods",verb="create"} 4.0
vernal_operator_api_requests_total{code="201",resource="pods",verb="create"} 2.0
vernal_operator_api_requests_total{code="200",resource="leases",verb="patch"} 77.0
vernal_operator_api_requests_created{code="200",resource="pods",verb="list"} 1.7e+09
vernal_operator_leader 1.0
"""
LOG = """\
2026-11-25 19:00:00,000 INFO vernal_operator.controller: all kinds listed
2026-11-25 19:00:01,000 ERROR vernal_operator.reconcile: a bug
"""


def test_writes_are_counted_but_for_reads_and_the_lease() -> None:
    operator = Operator(lambda: METRICS, lambda: LOG)
    assert operator.writes() == {("create", "pods"): 6.0}
    assert operator.count("api_requests", verb="create", code="403") == 4.0
    assert operator.count("leader") == 1.0
    assert operator.errors() == [LOG.splitlines()[1]]


def test_what_was_written_since() -> None:
    operator = Operator(lambda: METRICS, lambda: LOG)
    assert operator.written({}) == {("create", "pods"): 6.0}
    assert operator.written({("create", "pods"): 5.0}) == {("create", "pods"): 1.0}
    assert not operator.written(operator.writes())
