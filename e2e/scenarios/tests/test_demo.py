"""The demo as a test: a failed check, or anything that never came, fails it."""

import pytest
from scenarios.__main__ import run_demo


@pytest.mark.scenario
@pytest.mark.timeout(10800)  # the first run compiles Kubernetes and builds the images
def test_a_pool_freezes_thaws_scales_drains_and_survives_corruption() -> None:
    report = run_demo()
    print("\n" + report.render())
    assert report.ok, report.render()
