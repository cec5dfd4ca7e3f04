"""How a walk that fails is made shorter; without an API server."""

from controlplane.walks import Step, drawn, shrunk


def test_a_walk_is_made_as_short_as_it_still_fails() -> None:
    steps = [Step("replicas", 1), Step("image", "a"), Step("replicas", 2), Step("lose a pod"), Step("replicas", 3)]
    wanted = [steps[1], steps[3]]
    assert shrunk(lambda some: all(step in some for step in wanted), steps) == wanted
    assert shrunk(lambda some: False, steps) == steps
    assert drawn(7) == drawn(7) != drawn(8)
