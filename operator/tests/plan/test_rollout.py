"""Exact sequences of rolls and of changes of scale. Each row is what is there after one more plan was carried
out, with the reason.
"""

from dataclasses import dataclass, field, replace

import pytest
from plan.factory import NOW, pending, ready, spec, starting, worker
from vernal_operator.plan.census import Census, census
from vernal_operator.plan.model import PodView
from vernal_operator.plan.pods import PodClass
from vernal_operator.plan.rollout import Bounds, Rules, Step, bounds, step

NEW, OLD, OLDER = "new", "old", "older"
Rows = list[tuple[str, str]]


def count(pods: list[PodView] | tuple[PodView, ...]) -> Census:
    return census(pods, NEW, spec(), NOW)


def rules(pods: Census, **fields: object) -> Rules:
    """Of a roll from OLD to NEW."""
    values = {"released": bool(pods.available(pods.new)), "current": OLD, "can_fill": True}
    return Rules(**(values | fields))  # type: ignore[arg-type]


@dataclass
class Roll:
    """A cluster with a free GPU for everyone, in which starting and draining take `start` and `drain`
    plans.

    Attributes:
        works: pods of the new revision become ready. A number: only so many of them, the first ones.
        lose: before which plan a ready old pod goes, and its node with it.
        scale: before which plan there are other limits.
        rules: what is not as `rules` has it.
    """

    limits: Bounds
    pods: list[PodView]
    start: int = 1
    drain: int = 1
    works: bool | int = True
    lose: tuple[int, ...] = ()
    scale: dict[int, Bounds] = field(default_factory=dict)
    rules: dict[str, object] = field(default_factory=dict)
    made: int = 0

    def run(self, plans: int = 30) -> list[str]:
        """Rows until nothing changes any more."""
        rows = [self.row()]
        ages: dict[str, int] = {}
        for number in range(1, plans):
            self._time_goes_by(ages)
            if number in self.lose:
                self.pods.remove(next(p for p in self.pods if p.ready and p.revision == OLD))
            self.limits = self.scale.get(number, self.limits)
            self._plan()
            row = self.row()
            last = max((0, *self.lose, *self.scale))
            if row == rows[-1] and not self._in_transition() and number > last:
                break
            if row != rows[-1]:
                rows.append(row)
        return rows

    def row(self) -> str:
        """old ready+not ready, draining | new ready+not ready"""
        there = count(self.pods)
        old, new = there.ready(there.old), there.ready(there.new)
        left = f"{old}+{len(there.old) - old} -{len(there.leaving)}"
        return f"{left} | {new}+{len(there.new) - new}"

    def _starts(self, pod: PodView) -> bool:
        if pod.ready or pod.deletion_time is not None:
            return False
        if pod.revision != NEW or isinstance(self.works, bool):
            return pod.revision != NEW or bool(self.works)
        working = sum(one.ready and one.revision == NEW for one in self.pods)
        return working < self.works and pod is next(one for one in self.pods if one.revision == NEW and not one.ready)

    def _in_transition(self) -> bool:
        return any(pod.deletion_time is not None or self._starts(pod) for pod in self.pods)

    def _time_goes_by(self, ages: dict[str, int]) -> None:
        kept = []
        for pod in self.pods:
            ages[pod.uid] = ages.get(pod.uid, 0) + 1
            if pod.deletion_time is not None and ages[pod.uid] > self.drain:
                continue
            if self._starts(pod) and pod.uid.startswith("made") and ages[pod.uid] >= self.start:
                pod = replace(ready(pod.slot, revision=pod.revision), name=pod.name, uid=pod.uid)
            kept.append(pod)
        self.pods = kept

    def _plan(self) -> None:
        there = count(self.pods)
        done = step(there, self.limits, rules(there, **self.rules), NOW)
        assert not done.ask
        gone = {pod.uid for pod, _ in done.delete}
        self.pods = [
            replace(p, deletion_time=NOW + 60, ready=False, uid=p.uid + "x") if p.uid in gone else p for p in self.pods
        ]
        assert not done.fill + done.grow or len(there.alive) + len(there.draining) + done.fill + done.grow <= (
            self.limits.ceiling
        )
        for revision in [OLD] * done.fill + [NEW] * done.grow:
            self.made += 1
            self.pods.append(pending(100 + self.made, uid=f"made-{self.made}", revision=revision, scheduled=True))


def olds(number: int) -> list[PodView]:
    return [ready(i, revision=OLD) for i in range(number)]


TABLES: dict[str, tuple[Roll, Rows]] = {
    "one replica, surge": (
        Roll(Bounds(1, 1, 0), olds(1)),
        [
            ("1+0 -0 | 0+0", "the image changed"),
            ("1+0 -0 | 0+1", "the surge"),
            ("0+0 -1 | 1+0", "the new pod is ready before the old one goes"),
            ("0+0 -0 | 1+0", ""),
        ],
    ),
    "one replica, no surge": (
        Roll(Bounds(1, 0, 1), olds(1)),
        [
            ("1+0 -0 | 0+0", "the image changed"),
            ("0+0 -1 | 0+0", "the first new pod takes the old one's place"),
            ("0+0 -0 | 0+1", "which was held until the old one had drained"),
            ("0+0 -0 | 1+0", ""),
        ],
    ),
    "three replicas, surge 1": (
        Roll(Bounds(3, 1, 0), olds(3)),
        [
            ("3+0 -0 | 0+0", "the image changed"),
            ("3+0 -0 | 0+1", "the surge"),
            ("2+0 -1 | 1+0", "proven: 4 available, one may go"),
            ("2+0 -0 | 1+1", "never more than 4 on GPUs: the next one waits for the drain"),
            ("1+0 -1 | 2+0", "and so on, one at a time"),
            ("1+0 -0 | 2+1", ""),
            ("0+0 -1 | 3+0", ""),
            ("0+0 -0 | 3+0", ""),
        ],
    ),
    "four replicas, surge 2, unavailable 2": (
        Roll(Bounds(4, 2, 2), olds(4)),
        [
            ("4+0 -0 | 0+0", "the image changed"),
            ("4+0 -0 | 0+1", "the first pod alone, though there is room for two"),
            ("1+0 -3 | 1+1", "proven: 5 available, 2 must stay; one place is left"),
            ("0+0 -4 | 2+0", "2 new ones are enough"),
            ("0+0 -1 | 2+2", "3 drained"),
            ("0+0 -0 | 4+0", ""),
        ],
    ),
    "a revision that never becomes ready, no surge": (
        Roll(Bounds(3, 0, 1), olds(3), works=False),
        [
            ("3+0 -0 | 0+0", "the image changed"),
            ("2+0 -1 | 0+0", "one may be unavailable: it makes room"),
            ("2+0 -0 | 0+1", "and there it stays"),
        ],
    ),
    "a revision that never becomes ready, surge": (
        Roll(Bounds(3, 1, 0), olds(3), works=False),
        [("3+0 -0 | 0+0", "the image changed"), ("3+0 -0 | 0+1", "all old pods keep serving")],
    ),
    "an old pod is lost while the new revision is not proven": (
        Roll(Bounds(2, 1, 0), olds(2), works=False, lose=(3,)),
        [
            ("2+0 -0 | 0+0", "the image changed"),
            ("2+0 -0 | 0+1", "the surge; it cannot be pulled, say"),
            ("1+1 -0 | 0+1", "an old pod was lost: made again of the old revision"),
            ("2+0 -0 | 0+1", "capacity is whole again"),
        ],
    ),
    "all old pods are lost, one after the other, while the new revision is not proven": (
        Roll(Bounds(2, 1, 0), olds(2), works=False, start=3, lose=(3, 4)),
        [
            ("2+0 -0 | 0+0", "the image changed"),
            ("2+0 -0 | 0+1", "the surge"),
            ("1+1 -0 | 0+1", "the first is made again"),
            ("0+2 -0 | 0+1", "so is the last: no second pod of a revision that is not proven"),
            ("1+1 -0 | 0+1", ""),
            ("2+0 -0 | 0+1", ""),
        ],
    ),
    "the first new pod works and the second does not; then old pods are lost": (
        Roll(Bounds(4, 1, 0), olds(4), works=1, lose=(6, 9)),
        [
            ("4+0 -0 | 0+0", "the image changed"),
            ("4+0 -0 | 0+1", "the surge"),
            ("3+0 -1 | 1+0", "proven"),
            ("3+0 -0 | 1+1", "the second crashes, on another node, say"),
            ("2+1 -0 | 1+1", "an old pod was lost: made again of the old revision"),
            ("3+0 -0 | 1+1", "4 serve again"),
            ("2+1 -0 | 1+1", "and so is the next one"),
            ("3+0 -0 | 1+1", ""),
        ],
    ),
    "the first new pod works and the second does not; then the pool is scaled to 10, and to 2": (
        Roll(Bounds(4, 1, 0), olds(4), works=1, scale={6: Bounds(10, 1, 0), 9: Bounds(2, 1, 0)}),
        [
            ("4+0 -0 | 0+0", "the image changed"),
            ("4+0 -0 | 0+1", "the surge"),
            ("3+0 -1 | 1+0", "proven"),
            ("3+0 -0 | 1+1", "the second crashes"),
            ("3+6 -0 | 1+1", "six that are known to work, and no second pod that may not"),
            ("9+0 -0 | 1+1", "10 serve"),
            ("1+0 -8 | 1+1", "2 serve"),
            ("1+0 -0 | 1+1", ""),
        ],
    ),
    "no surge: the second new pod does not work, and an old one is lost": (
        Roll(Bounds(4, 0, 1), olds(4), works=1, lose=(8,)),
        [
            ("4+0 -0 | 0+0", "the image changed"),
            ("3+0 -1 | 0+0", "one may be unavailable"),
            ("3+0 -0 | 0+1", ""),
            ("2+0 -1 | 1+0", "proven"),
            ("2+0 -0 | 1+1", "the second crashes: 3 serve, which is the floor"),
            ("1+1 -0 | 1+1", "an old pod was lost"),
            ("2+0 -0 | 1+1", "made again: 3 serve"),
        ],
    ),
    "a new pod that worked is lost while the roll stalls": (
        Roll(
            Bounds(3, 1, 0), [*olds(1), ready(8, revision=NEW), pending(6, revision=NEW, uid="stuck")], works=False
        ),
        [
            ("1+0 -0 | 1+1", "two new ones had worked, and one of them is gone"),
            ("1+1 -0 | 1+1", "the roll goes back by one pod, for what is known to work"),
            ("2+0 -0 | 1+1", ""),
        ],
    ),
    "too many new pods that do not work, after a change of scale": (
        Roll(
            Bounds(4, 1, 0),
            [*olds(1), ready(9, revision=NEW), *(pending(i, revision=NEW, scheduled=True) for i in (6, 7, 8))],
            works=False,
        ),
        [
            ("1+0 -0 | 1+3", "2 of 4 serve, and the places are taken"),
            ("1+0 -2 | 1+1", "two of them go"),
            ("1+2 -2 | 1+1", "for two of the old revision"),
            ("3+0 -0 | 1+1", ""),
        ],
    ),
    "scaled from 3 to 10 while the new revision starts": (
        Roll(Bounds(3, 1, 0), olds(3), start=2, works=False, scale={2: Bounds(10, 1, 0)}),
        [
            ("3+0 -0 | 0+0", "the image changed"),
            ("3+0 -0 | 0+1", "the surge"),
            ("3+7 -0 | 0+1", "seven old pods at once: nobody waits for the new one"),
            ("10+0 -0 | 0+1", ""),
        ],
    ),
    "scaled from 4 to 2 while the new revision starts": (
        Roll(Bounds(4, 1, 0), olds(4), works=False, scale={2: Bounds(2, 1, 0)}),
        [
            ("4+0 -0 | 0+0", "the image changed"),
            ("4+0 -0 | 0+1", "the surge"),
            ("2+0 -2 | 0+1", "old pods above 2 go; the new one keeps its place in the surge"),
            ("2+0 -0 | 0+1", ""),
        ],
    ),
    "proof is lost half-way: all new pods stop being ready": (
        Roll(
            Bounds(3, 1, 0),
            [*olds(1), *(starting(i, revision=NEW, uid=f"blip-{i}") for i in (7, 8))],
            works=False,
        ),
        [
            ("1+0 -0 | 0+2", "one of three serves"),
            ("1+1 -0 | 0+2", "an old pod is made, as many as fit below 4"),
            ("2+0 -0 | 0+2", ""),
        ],
    ),
    "paused before the first new pod": (
        Roll(Bounds(2, 1, 0), olds(2), rules={"paused": True}, scale={2: Bounds(3, 1, 0)}),
        [
            ("2+0 -0 | 0+0", "the image changed: nothing happens"),
            ("2+1 -0 | 0+0", "scaled to 3: of the old revision"),
            ("3+0 -0 | 0+0", ""),
        ],
    ),
    "paused half-way": (
        Roll(
            Bounds(3, 1, 0), [*olds(2), ready(9, revision=NEW)], rules={"paused": True}, scale={2: Bounds(4, 1, 0)}
        ),
        [
            ("2+0 -0 | 1+0", "proven, and nothing is replaced"),
            ("2+1 -0 | 1+0", "scaled to 4: the new pod counts, so one old pod is missing"),
            ("3+0 -0 | 1+0", ""),
        ],
    ),
    "from a revision that was given up to a third one": (
        Roll(Bounds(2, 1, 0), [*olds(1), pending(7, revision=OLDER, scheduled=True)], works=False),
        [
            ("1+1 -0 | 0+0", "one old pod was lost; one pod that never worked holds a place"),
            ("1+1 -1 | 0+0", "it goes, an old one is made in the last free place"),
            ("2+0 -1 | 0+0", ""),
            ("2+0 -0 | 0+1", "and the first pod of the third revision when the place is free"),
        ],
    ),
    "no ControllerRevision to make old pods of": (
        Roll(Bounds(2, 1, 0), olds(2), works=False, lose=(3,), rules={"can_fill": False}),
        [
            ("2+0 -0 | 0+0", "the image changed"),
            ("2+0 -0 | 0+1", "the surge"),
            ("1+0 -0 | 0+1", "nothing can take its place, and a second new pod must not"),
        ],
    ),
    "going back": (
        Roll(Bounds(2, 1, 0), [ready(0, revision=NEW), *(pending(i, revision=OLDER) for i in (7, 8))],
             rules={"current": NEW, "released": True, "can_fill": False}),
        [
            ("0+2 -0 | 1+0", "NEW is the current revision again"),
            ("0+0 -2 | 1+0", "what does not work goes at once; there is no room yet"),
            ("0+0 -2 | 1+1", "no proof is needed, and pods that never had a node hold nothing"),
            ("0+0 -0 | 2+0", ""),
        ],
    ),
    "old pods that are broken go before the one that serves": (
        Roll(Bounds(3, 1, 0), [*olds(1), *(pending(i, revision=OLD, scheduled=True) for i in (1, 2))]),
        [
            ("1+2 -0 | 0+0", "the image changed"),
            ("1+2 -0 | 0+1", "the surge"),
            ("1+1 -1 | 1+0", "proven: one of the broken ones; both might come back, so they count"),
            ("1+1 -0 | 1+1", ""),
            ("1+0 -1 | 2+0", ""),
            ("1+0 -0 | 2+1", ""),
            ("0+0 -1 | 3+0", "the one that serves goes last"),
            ("0+0 -0 | 3+0", ""),
        ],
    ),
    "scale up from nothing": (
        Roll(Bounds(3, 1, 0), [], rules={"released": True, "can_fill": False}),
        [("0+0 -0 | 0+0", ""), ("0+0 -0 | 0+3", "nothing to fall back to: all at once"), ("0+0 -0 | 3+0", "")],
    ),
    "scale up from nothing, to a new revision": (
        Roll(Bounds(3, 1, 0), []),
        [
            ("0+0 -0 | 0+0", "replicas was 0 when the image changed"),
            ("0+3 -0 | 0+1", "what is known to work, and one of the new revision"),
            ("2+0 -1 | 1+0", "proven"),
            ("2+0 -0 | 1+1", ""),
            ("1+0 -1 | 2+0", ""),
            ("1+0 -0 | 2+1", ""),
            ("0+0 -1 | 3+0", ""),
            ("0+0 -0 | 3+0", ""),
        ],
    ),
    "scale down": (
        Roll(Bounds(1, 1, 0), [ready(i, revision=NEW) for i in range(3)], rules={"can_fill": False}),
        [("0+0 -0 | 3+0", ""), ("0+0 -2 | 1+0", ""), ("0+0 -0 | 1+0", "")],
    ),
    "scale to zero": (
        Roll(Bounds(0, 1, 0), [ready(0, revision=NEW), ready(1, revision=OLD)]),
        [("1+0 -0 | 1+0", ""), ("0+0 -2 | 0+0", ""), ("0+0 -0 | 0+0", "")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_sequence(name: str) -> None:
    roll, rows = TABLES[name]
    assert roll.run() == [row for row, _ in rows]


def done(pods: list[PodView], limits: Bounds, **fields: object) -> Step:
    there = count(pods)
    return step(there, limits, rules(there, **fields), NOW)


def test_a_first_pod_without_a_node_takes_the_place_of_an_old_one() -> None:
    stuck = pending(3, revision=NEW, unschedulable="0/1 nodes: insufficient nvidia.com/gpu")
    assert len(done([*olds(3), stuck], Bounds(3, 1, 1)).delete) == 1
    assert done([*olds(3), stuck], Bounds(3, 1, 0)).delete == (), "maxUnavailable 0 is kept to"


def test_a_blip_of_all_old_pods_does_not_take_them_all() -> None:
    old = [starting(i, revision=OLD) for i in range(4)]
    found = done([*old, ready(9, revision=NEW)], Bounds(4, 1, 1))
    assert len(found.delete) == 2, "3 of 5 must be left that are ready or may be again"


def test_a_pod_that_may_have_served_is_no_debris() -> None:
    blip = ready(5, revision=OLDER, ready=False, ready_since=None)
    unasked = starting(6, revision=OLDER, polled_at=None)
    never = starting(7, revision=OLDER, worker=worker(ready=False))
    assert [pod for pod, _ in done([*olds(2), blip, unasked, never], Bounds(4, 1, 0)).delete] == [never]


def test_a_pod_counts_when_it_has_been_ready_for_min_ready_seconds() -> None:
    young = ready(9, revision=NEW, ready_since=NOW - 5)
    for seconds, released in ((5, True), (6, False)):
        there = census([*olds(2), young], NEW, spec(rollout={"minReadySeconds": seconds}), NOW)
        assert bool(there.among(there.new, PodClass.AVAILABLE)) == released
        assert len(step(there, Bounds(2, 1, 0), rules(there), NOW).delete) == released


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
