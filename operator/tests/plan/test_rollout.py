"""Exact sequences of rolls and of changes of scale. Each row is what is there after one more plan was carried
out.
"""

from dataclasses import dataclass, replace

import pytest
from plan.factory import NOW, pending, ready, spec
from vernal_operator.plan.census import census, still_draining
from vernal_operator.plan.model import PodView
from vernal_operator.plan.rollout import Bounds, bounds, step

NEW, OLD = "new", "old"


@dataclass
class Roll:
    """A cluster with a free GPU for everyone, in which starting and draining take `start` and `drain`
    plans.
    """

    limits: Bounds
    pods: list[PodView]
    start: int = 1
    drain: int = 1
    works: bool = True
    made: int = 0

    def run(self, plans: int = 30) -> list[str]:
        """Rows until nothing changes any more."""
        rows = [self.row()]
        ages: dict[str, int] = {}
        for _ in range(plans):
            self._time_goes_by(ages)
            self._plan()
            row = self.row()
            if row == rows[-1] and not self._in_transition():
                break
            if row != rows[-1]:
                rows.append(row)
        return rows

    def row(self) -> str:
        """old ready+not ready, draining | new ready+not ready"""
        sorts = census(self.pods, NEW)
        old, new = sum(p.ready for p in sorts.old), sum(p.ready for p in sorts.new)
        left = f"{old}+{len(sorts.old) - old} -{len(sorts.terminating)}"
        return f"{left} | {new}+{len(sorts.new) - new}"

    def _in_transition(self) -> bool:
        return any(p.deletion_time is not None or (not p.ready and self.works) for p in self.pods)

    def _time_goes_by(self, ages: dict[str, int]) -> None:
        kept = []
        for pod in self.pods:
            ages[pod.uid] = ages.get(pod.uid, 0) + 1
            if pod.deletion_time is not None and ages[pod.uid] > self.drain:
                continue
            if (
                pod.revision == NEW
                and pod.deletion_time is None
                and not pod.ready
                and self.works
                and ages[pod.uid] >= self.start
            ):
                pod = replace(ready(pod.slot, revision=NEW), name=pod.name, uid=pod.uid)
            kept.append(pod)
        self.pods = kept

    def _plan(self) -> None:
        sorts = census(self.pods, NEW)
        done = step(
            sorts,
            self.limits,
            proven=any(p.ready for p in sorts.new),
            one_at_first=False,
            draining=len(still_draining(sorts, NEW, NOW)),
            wanted_revision=NEW,
            now=NOW,
        )
        assert not done.ask
        gone = {pod.uid for pod, _ in done.delete}
        self.pods = [
            replace(p, deletion_time=NOW + 60, ready=False, uid=p.uid + "x") if p.uid in gone else p for p in self.pods
        ]
        for _ in range(done.create):
            self.made += 1
            self.pods.append(pending(100 + self.made, revision=NEW, scheduled=True))


TABLES = {
    "one replica, surge: the new pod is ready before the old one goes": (
        Roll(Bounds(1, 1, 0), [ready(0, revision=OLD)]),
        ["1+0 -0 | 0+0", "1+0 -0 | 0+1", "0+0 -1 | 1+0", "0+0 -0 | 1+0"],
    ),
    "one replica, no surge: the old pod goes first": (
        Roll(Bounds(1, 0, 1), [ready(0, revision=OLD)]),
        ["1+0 -0 | 0+0", "0+0 -1 | 0+0", "0+0 -0 | 0+1", "0+0 -0 | 1+0"],
    ),
    "three replicas, surge 1: one at a time, and never more than 4 on GPUs": (
        Roll(Bounds(3, 1, 0), [ready(i, revision=OLD) for i in range(3)]),
        [
            "3+0 -0 | 0+0",
            "3+0 -0 | 0+1",
            "2+0 -1 | 1+0",
            "2+0 -0 | 1+1",
            "1+0 -1 | 2+0",
            "1+0 -0 | 2+1",
            "0+0 -1 | 3+0",
            "0+0 -0 | 3+0",
        ],
    ),
    "three replicas, surge 1, slow drains: a draining pod holds its place": (
        Roll(Bounds(3, 1, 0), [ready(i, revision=OLD) for i in range(3)], drain=3),
        [
            "3+0 -0 | 0+0",
            "3+0 -0 | 0+1",
            "2+0 -1 | 1+0",
            "2+0 -0 | 1+1",
            "1+0 -1 | 2+0",
            "1+0 -0 | 2+1",
            "0+0 -1 | 3+0",
            "0+0 -0 | 3+0",
        ],
    ),
    "four replicas, surge 2, unavailable 2: the first pod alone, then by twos": (
        Roll(Bounds(4, 2, 2), [ready(i, revision=OLD) for i in range(4)]),
        [
            "4+0 -0 | 0+0",
            "4+0 -0 | 0+1",
            "1+0 -3 | 1+1",
            "0+0 -4 | 2+0",
            "0+0 -1 | 2+2",
            "0+0 -0 | 4+0",
        ],
    ),
    "three replicas, a revision that never becomes ready: two old pods keep serving": (
        Roll(Bounds(3, 0, 1), [ready(i, revision=OLD) for i in range(3)], works=False),
        ["3+0 -0 | 0+0", "2+0 -1 | 0+0", "2+0 -0 | 0+1"],
    ),
    "three replicas, surge, a revision that never becomes ready: all old pods keep serving": (
        Roll(Bounds(3, 1, 0), [ready(i, revision=OLD) for i in range(3)], works=False),
        ["3+0 -0 | 0+0", "3+0 -0 | 0+1"],
    ),
    "old pods that are broken go before the one that serves": (
        Roll(
            Bounds(3, 1, 0),
            [ready(0, revision=OLD), *(pending(i, revision=OLD, scheduled=True) for i in (1, 2))],
        ),
        [
            "1+2 -0 | 0+0",
            "1+2 -0 | 0+1",
            "1+1 -1 | 1+0",
            "1+1 -0 | 1+1",
            "1+0 -1 | 2+0",
            "1+0 -0 | 2+1",
            "0+0 -1 | 3+0",
            "0+0 -0 | 3+0",
        ],
    ),
    "scale up from nothing": (Roll(Bounds(3, 1, 0), []), ["0+0 -0 | 0+0", "0+0 -0 | 0+3", "0+0 -0 | 3+0"]),
    "scale down": (
        Roll(Bounds(1, 1, 0), [ready(i, revision=NEW) for i in range(3)]),
        ["0+0 -0 | 3+0", "0+0 -2 | 1+0", "0+0 -0 | 1+0"],
    ),
    "scale to zero": (
        Roll(Bounds(0, 1, 0), [ready(0, revision=NEW), ready(1, revision=OLD)]),
        ["1+0 -0 | 1+0", "0+0 -2 | 0+0", "0+0 -0 | 0+0"],
    ),
    "scale down in the middle of a roll: old pods that are ready go, the new one stays": (
        Roll(
            Bounds(2, 1, 0),
            [*(ready(i, revision=OLD) for i in range(4)), pending(9, revision=NEW, scheduled=True)],
            start=3,
        ),
        ["4+0 -0 | 0+1", "2+0 -2 | 0+1", "1+0 -1 | 1+0", "1+0 -0 | 1+1", "0+0 -1 | 2+0", "0+0 -0 | 2+0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_sequence(name: str) -> None:
    roll, rows = TABLES[name]
    assert roll.run() == rows


def test_a_first_pod_without_a_node_takes_the_place_of_an_old_one() -> None:
    old = tuple(ready(i, revision=OLD) for i in range(3))
    stuck = pending(3, revision=NEW, unschedulable="0/1 nodes: insufficient nvidia.com/gpu")

    def gone(limits: Bounds) -> int:
        sorts = census((*old, stuck), NEW)
        done = step(sorts, limits, proven=False, one_at_first=False, draining=0, wanted_revision=NEW, now=NOW)
        return len(done.delete)

    assert gone(Bounds(3, 1, 1)) == 1
    assert gone(Bounds(3, 1, 0)) == 0, "maxUnavailable 0 is kept to"


def test_a_blip_of_all_old_pods_does_not_take_them_all() -> None:
    old = tuple(pending(i, revision=OLD, scheduled=True) for i in range(4))
    done = step(
        census((*old, ready(9, revision=NEW)), NEW),
        Bounds(4, 1, 1),
        proven=True,
        one_at_first=False,
        draining=0,
        wanted_revision=NEW,
        now=NOW,
    )
    assert len(done.delete) == 2, "3 of 5 must be left that are ready or may be again"


@pytest.mark.parametrize(
    ("surge", "unavailable", "expected"),
    [
        (1, 0, (1, 0)),
        ("25%", "25%", (2, 1)),
        ("100%", 0, (5, 0)),
        ("0%", "10%", (0, 1)),  # both round to 0: one must be allowed to go
    ],
)
def test_percentages_round_as_in_a_deployment(
    surge: int | str, unavailable: int | str, expected: tuple[int, int]
) -> None:
    found = bounds(5, spec(rollout={"maxSurge": surge, "maxUnavailable": unavailable}).rollout)
    assert (found.surge, found.unavailable) == expected
