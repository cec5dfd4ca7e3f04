"""When the phases of a pod went on."""

import copy
from dataclasses import replace

import pytest
from kubectl_vernal.output import when
from kubectl_vernal.read import World
from kubectl_vernal.views import timeline
from recording import pod_of, world


@pytest.mark.parametrize(
    ("begin", "end", "bar"),
    [
        (0, 10, "#" * 10),
        (0, 5, "#" * 5),
        (5, 10, "     #####"),
        (0, 0.01, "#"),
        (9.99, 10, "         #"),
        (5, 5, "     |"),
    ],
)
def test_bars_are_as_long_as_what_they_show(begin: float, end: float, bar: str) -> None:
    assert timeline.bar(begin, end, 10, 10) == bar


def test_phases_are_shown_when_they_went_on() -> None:
    """Of an older worker, which does not tell, their lengths."""
    found = world()
    pod = pod_of(found, "Restored")
    timings = {"criu": 1.0, "weights": 2.0, "canary": 0.5, "total": 4.0}
    key = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"

    def rows(begun: dict[str, float]) -> list[tuple[str, int, int]]:
        state = {**(found.states[key] or {}), "timings": timings, "begun": begun}
        text = timeline.text(timeline.view(replace(found, states={**found.states, key: state}), pod, None))
        shown = [line for line in text if line.split()[:1] and line.split()[0] in timings]
        return [(line.split()[0], line.index("#"), line.count("#")) for line in shown]

    told = {"weights": 1.0, "criu": 0.5, "canary": 3.5}
    (first, at, long), (second, after, longer), (third, last, short) = rows(told)
    assert (first, second, third) == ("criu", "weights", "canary"), "as they began"
    assert (after - at, last - at) == (5, 30) and (long, longer, short) == (10, 20, 5), "40 marks are 4 s"
    assert len({begin for _, begin, _ in rows({"criu": 0.5})}) == 1


def test_a_drain_shows_its_budget_and_where_it_is() -> None:
    found = world()
    pod = copy.deepcopy(pod_of(found, "Cold"))
    ends = when("2026-11-25T10:02:00Z")
    assert ends is not None
    pod["metadata"] |= {"deletionTimestamp": "2026-11-25T10:02:00Z", "deletionGracePeriodSeconds": 120}
    view = timeline.view(replace(found, now=ends - 60), pod, found.pool("demo", "qwen"))
    assert [(part["begin"], part["end"]) for part in view["drain"]["budget"]] == [(0, 5), (5, 95), (95, 120)]
    assert view["drain"]["begunSeconds"] == 60
    (now,) = (line for line in timeline.text(view) if line.strip().startswith("now"))
    (runs,) = (line for line in timeline.text(view) if "requests run on" in line)
    assert runs.index("#") < now.index("^") < runs.rindex("#"), "half of the time is over: they run on"


def test_a_pod_of_which_nothing_is_known_says_so() -> None:
    bare = {"metadata": {"name": "p", "namespace": "n", "creationTimestamp": "2026-11-25T10:00:00Z"}, "spec": {}}
    assert timeline.text(timeline.view(World(0.0), bare, None))[-1].strip() == "nothing has happened yet"
