"""What neighbours read of workers is there. Their objects are tried on an API server in operator/tests/controlplane."""

import re

import checkers
import pytest
from checkers.tests import exported

pytestmark = pytest.mark.chart


def test_workers_tell_what_the_inference_extension_scrapes() -> None:
    """By the table of its model server protocol; what is only there with LoRA adapters is asked for with them alone."""
    page = checkers.neighbour("inference") / "docs" / "proposals" / "003-model-server-protocol" / "README.md"
    rows = [line.split("|") for line in page.read_text().splitlines() if re.match(r"\| [^|]*\| (Gauge|Labeled)", line)]
    wanted = {row[1].strip(): re.findall(r"`([^`]+)`", row[4]) for row in rows}
    assert {
        "TotalQueuedRequests",
        "TotalRunningRequests",
        "KVCacheUtilization",
        "[Optional] BlockSize",
    } <= wanted.keys()
    series = list(exported.series(exported.engine(), {}))
    for name, (metric, *label) in wanted.items():
        found = [text for called, text, _ in series if called == metric]
        assert found, f"{name}: nobody exports {metric}"
        assert all(f'{one}="' in found[0] for one in label), f"{name}: {found[0]} has no label {label}"
