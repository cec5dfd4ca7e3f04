"""Where a plan does not see all that was known before: an operator that starts anew, a round that rejects."""

from dataclasses import replace
from typing import Any

from plan.factory import NOW, condition, creator, published, ready, snapshot, spec
from plan.test_proving import DEADLINE, after, half_way, made, rolling, works
from vernal_contract.state import RestoreFailure
from vernal_operator.observe.views import POOLS_READER
from vernal_operator.plan import plan
from vernal_operator.plan.model import PodView, Refused

SENTENCE = 'pods "p-x-2" is forbidden: exceeded quota: gpus, requested: 1, used: 2, limited: 2'
QUOTA = Refused("create", "Pod", "p-x-2", "QuotaExceeded", SENTENCE)


def unasked(pod: PodView) -> PodView:
    """As an operator sees it that starts anew."""
    return replace(pod, worker=None, polled_at=None, answered_at=None)


def test_a_rejection_says_that_a_quota_left_no_room_for_the_new_pod() -> None:
    before = rolling(ready(0), ready(1), since=NOW - DEADLINE + 1, to="worker:2")
    told = plan(replace(before, refused=(QUOTA,))).status
    assert condition(told, "Progressing") == ("False", "QuotaExceeded")
    due = replace(before, pool=replace(before.pool, status=told), now=NOW + 1)
    # The plan that rejects makes no pod, so what was refused is forgotten and it is decided again without (Actor.pool).
    for refused in ((QUOTA,), ()):
        done = plan(replace(due, refused=refused)).status
        assert done is not None and "exceeded quota: gpus" in done["rejected"]["message"]


def test_the_ready_of_a_pool_whose_spec_is_not_understood_follows_its_pods() -> None:
    raw = {"image": "worker:1", "replicas": 2, "model": {"name": "m"}, "checkpoint": {"policy": "Disabled"}}
    good = plan(snapshot(spec(**raw), ready(0, spec=spec(**raw)), ready(1, spec=spec(**raw)))).status
    assert good is not None and good["readyReplicas"] == 2
    bad = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": raw | {"image": ""}, "status": good}
    entry = POOLS_READER.convert(bad)
    assert entry is not None and entry.view.spec is None
    gone = plan(replace(snapshot(spec()), pool=entry.view)).status
    assert condition(gone, "Degraded") == ("True", "InvalidSpec")
    assert gone is not None and gone["readyReplicas"] == 0
    assert condition(gone, "Ready") == ("False", "NoneReady")
    back = snapshot(spec(), ready(0), ready(1))
    back = replace(back, pool=replace(entry.view, status=gone))
    assert condition(plan(back).status, "Ready") == ("True", "AllReady")


def test_an_operator_that_starts_anew_in_a_roll_makes_no_old_pod() -> None:
    seen = half_way(ready(0), ready(1), works(3), works(4), available=2)
    [rev] = made(plan(seen))
    assert rev == seen.pool.status["updateRevision"]
    anew = plan(replace(seen, pods=tuple(map(unasked, seen.pods))))
    assert anew.poll and not anew.create and not anew.delete, "it asks them first"


def test_until_it_has_asked_them_it_goes_on_making_none_and_writes_once() -> None:
    seen = half_way(ready(0), ready(1), works(3), works(4), available=2)
    seen = replace(seen, pods=tuple(map(unasked, seen.pods)))
    for number in range(4):
        done = plan(replace(seen, now=NOW + number))
        assert not done.create and not done.delete
        assert number == 0 or done.status is None
        seen = after(seen, done)


def test_a_clock_that_is_set_back_makes_no_writes_and_the_deadline_comes() -> None:
    seen = rolling(ready(0), ready(1), since=NOW - 100, to="worker:2")
    seen = replace(seen, looked_since=NOW + DEADLINE)
    first = plan(seen)
    seen = after(seen, first, announced=frozenset(event.key for event in first.events))
    for seconds in (10, 20, 30):
        assert plan(replace(seen, now=NOW + seconds)).status is None
    late = plan(replace(seen, now=NOW + DEADLINE - 50)).status
    assert late is not None and "rejected" in late


def test_a_roll_is_not_rejected_for_the_time_in_which_no_operator_looked() -> None:
    seen = half_way(*(ready(i) for i in range(3)), works(3), since=NOW - DEADLINE - 60)
    anew = plan(replace(seen, looked_since=NOW))
    assert anew.status is not None and "rejected" not in anew.status
    assert made(anew) == [seen.pool.status["updateRevision"]]
    late = plan(replace(seen, looked_since=NOW - DEADLINE))
    assert late.status is not None and "rejected" in late.status


def test_an_operator_that_starts_anew_does_not_forget_what_workers_have_told() -> None:
    failure = RestoreFailure(generation="g1", stage="verify", reason="DigestMismatch", message="x")
    pod = ready(0, worker=creator(restore_failures=[failure], start_reason="DigestMismatch"))
    view = published(plan(snapshot(spec(), pod)).create_checkpoints[0])
    status: Any = plan(snapshot(spec(), pod, checkpoints=(view,))).status
    assert condition(status, "Degraded") == ("True", "ThawFailed")
    anew = plan(snapshot(spec(), unasked(pod), checkpoints=(view,), status=status, now=NOW + 60)).status
    assert anew is None or condition(anew, "Degraded") == ("True", "ThawFailed")
