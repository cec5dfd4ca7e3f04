"""How Kubernetes ends workers, on a cluster."""

import pytest
from shutdown import outcomes


@pytest.mark.scenario
@pytest.mark.timeout(10800)  # the first run builds images
def test_each_way_to_end_a_worker_has_its_outcome() -> None:
    report = outcomes.run()
    print("\n" + report.render())
    assert report.ok, report.render()
