"""What is looked at because something changed."""

import threading
import time
from dataclasses import replace
from typing import Any, cast

from vernal_operator.client import Client
from vernal_operator.controller import STUCK_SECONDS, Controller
from vernal_operator.kinds import CHECKPOINTS, POOLS, Key
from vernal_operator.lease import LeaseSettings
from vernal_operator.observe.cache import Entry
from vernal_operator.plan.model import Pool
from vernal_operator.settings import Settings


class Nobody:
    """A client that is asked nothing."""

    def guard(self, seconds_left: Any) -> None: ...

    def listen(self, ended: Any) -> None:
        self.ended = ended

    def unguarded(self, timeout: float) -> "Nobody":
        return self


def test_a_checkpoint_that_a_pool_turns_away_from_is_looked_at() -> None:
    """Its pods may have gone before: then nothing else would tell that it is used no more."""
    lease = LeaseSettings(namespace="ns", name="lease", identity="me")
    controller = Controller(cast(Client, Nobody()), Settings(), lease, lambda by: None)
    view = Pool(
        name="p", namespace="ns", uid="u", generation=1, spec=None, spec_error="", status={}, deletion_time=None
    )
    entry: Entry[Pool] = Entry("ns", "p", "u", 1, "", "", view)
    pools = controller._observer.pools
    for version, name in enumerate(("old", "new"), 1):
        status = {"checkpoint": {"name": name}}
        pools.seen(replace(entry, version=version, view=replace(view, status=status)))
    assert set(controller._queue._ready) == {Key(POOLS, "ns", "p"), Key(CHECKPOINTS, "ns", "old")}


def test_a_reconcile_whose_calls_end_lives_however_long_it_takes() -> None:
    client = Nobody()
    lease = LeaseSettings(namespace="ns", name="lease", identity="me")
    controller = Controller(cast(Client, client), Settings(), lease, lambda by: None)
    key, long_ago = Key(POOLS, "ns", "p"), time.monotonic() - STUCK_SECONDS - 1
    client.ended()  # a call of a thread that reconciles nothing
    controller._busy = {threading.get_ident(): (key, long_ago)}
    assert "ns/p" in controller.problems()[0]
    client.ended()
    assert not controller.problems()
    controller._busy[0] = (key, long_ago)
    client.ended()
    assert len(controller.problems()) == 1, "another thread's calls say nothing of it"
