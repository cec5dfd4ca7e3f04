"""What goes with a checkpoint."""

from typing import Any, cast

import pytest
from plan.factory import creator, ready, snapshot, spec
from vernal_operator.client import Client
from vernal_operator.kinds import CHECKPOINTS, POOLS, Key
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.references import References
from vernal_operator.observe.snapshot import checkpoint_snapshot
from vernal_operator.observe.workers import Workers
from vernal_operator.plan import plan, plan_checkpoint
from vernal_operator.settings import Settings


class Nobody:
    """A client that finds the claim and the namespace."""

    def get(self, kind: Any, namespace: Any, name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}}


def checkpoint(name: str, host: str, **meta: Any) -> dict[str, Any]:
    [manifest] = plan(snapshot(spec(), ready(0, worker=creator()))).create_checkpoints
    return manifest | {
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "5", **meta},
        "spec": manifest["spec"] | {"hostTuple": host * 64},
    }


@pytest.mark.parametrize("used", [True, False])
def test_files_of_one_that_goes_are_removed_and_those_of_other_hosts_are_not(used: bool) -> None:
    observer, workers = Observer(cast(Client, Nobody()), Settings(), lambda *_: None), Workers()
    going = {"deletionTimestamp": "2026-11-21T08:00:00Z", "finalizers": ["vernal.dev/artifact-files"]}
    for name, host in (("one", "a"), ("two", "b")):
        observer.wrote(CHECKPOINTS, checkpoint(name, host, **going))
    pool = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "p", "resourceVersion": "5"},
        "spec": {"image": "i", "model": {"name": "m"}, "checkpoint": {"storage": {"claimName": "store"}}},
        "status": {"checkpoint": {"name": "two" if used else "another"}},
    }
    observer.wrote(POOLS, pool)
    found = checkpoint_snapshot(
        observer, References(observer, workers), cast(Client, Nobody()), Key(CHECKPOINTS, "ns", "one"), 0.0, frozenset()
    )
    assert found is not None
    [job] = plan_checkpoint(found).create
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--host") + 1] == "a" * 64, "that of two, which a pool may use, stays"
    workers.close()
