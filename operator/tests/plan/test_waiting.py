"""What a start waits for is part of the pool's conditions."""

from plan.factory import NOW, ready, snapshot, spec, starting, worker
from vernal_contract.state import Phase
from vernal_operator.plan import plan


def test_what_a_start_waits_for_is_told() -> None:
    """Else a pool seems to stand still, for as long as another process has the GPU."""
    waits = worker(
        phase=Phase.STARTING, ready=False, start_mode=None, waiting_for="GPU memory that another process holds: 9 GiB"
    )
    held = "pod p-0: the start waits for GPU memory that another process holds: 9 GiB"
    for spec_, pods in (
        (spec(), (starting(0, name="p-0", worker=waits),)),
        (spec(image="worker:2"), (ready(1), starting(0, name="p-0", worker=waits))),
    ):
        status = plan(snapshot(spec_, *pods)).status
        assert status is not None
        (told,) = [c for c in status["conditions"] if c["type"] == "Progressing"]
        assert told["status"] == "True" and told["message"].endswith(f"; {held}")
    late = starting(0, name="p-0", worker=waits, created=NOW - 1e6)
    status = plan(snapshot(spec(), late)).status
    assert status is not None
    (told,) = [c for c in status["conditions"] if c["type"] == "Degraded"]
    assert told["status"] == "True" and "waits for GPU memory" in told["message"]
    served = ready(0, worker=worker(waiting_for="nothing any more"))
    assert "waits for" not in str(plan(snapshot(spec(), served)).status)
