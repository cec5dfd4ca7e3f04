"""Every panel has something to show, and the pictures in the documentation are of the dashboards as they are."""

from pathlib import Path

import checkers
import pytest
from checkers.tests import exported
from dashboards.evaluate import evaluate, legend, load, panels, times
from dashboards.pictures import BOARDS, stale
from dashboards.story import MINUTES, TOLD, bucket, grows, steps, told


def test_the_pictures_are_of_these_dashboards() -> None:
    assert not stale(), "run `make dashboards-pictures`, and look at what it writes"


def test_promtools_notation() -> None:
    assert steps((2, 45), (4, 75)) == f"2x44 4x74 4x{MINUTES - 1}"
    assert grows((1, 10), (0, 1)) == f"0+1x9 10+0x0 10+0x{MINUTES - 1}"
    assert bucket(10, 1.0, "1.0").startswith("0+5x") and bucket(10, 1.0, "+Inf").startswith("0+10x")


def test_a_legend_is_filled_in() -> None:
    assert legend("{{namespace}}/{{pool}} ready", {"namespace": "ml", "pool": "p"}) == "ml/p ready"
    assert legend("{{mode}}: {{reason}}", {"mode": "Cold"}) == "Cold: "


@pytest.mark.chart
def test_every_panel_has_something_to_show(tmp_path: Path) -> None:
    """Each of its queries has points, and every label that its legend names."""
    boards = load(BOARDS)
    targets = {
        (name, panel["title"], target["expr"]): target["legendFormat"]
        for name, board in boards.items()
        for panel in board["panels"]
        for target in panel["targets"]
    }
    series = list(told(exported.everything(exported.engine())))
    assert {one.partition("{")[0] for one, _ in series} == set(TOLD), "the story tells of what nobody exports"
    points = evaluate(checkers.ensure()["promtool"], series, [expr for _, _, expr in targets], tmp_path)
    for (name, title, expr), template in targets.items():
        assert points[expr], f"{name}: {title}: no data: {expr}"
        for labels, values in points[expr].items():
            assert len(values) == len(times())
            assert "{{" not in legend(template, dict(labels))
    for name, board in boards.items():
        for panel in panels(board, points):
            found = sum(len(points[target["expr"]]) for target in panel["targets"])
            assert len(panel["series"]) == found, f"{name}: {panel['title']}: two lines have one legend"


@pytest.mark.chart
def test_a_query_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="answered 0 of"):
        evaluate(checkers.ensure()["promtool"], [], ["sum by ("], tmp_path)
