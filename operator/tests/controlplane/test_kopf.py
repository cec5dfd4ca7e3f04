"""Why pools and checkpoints are not watched by kopf (docs/design/0015): what its watches do, with the best settings.

A test that fails here says that kopf has become better, and that the record wants another look.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from controlplane import kopf_alone
from controlplane.cases import POOL, Case, kubeconfig, pool
from controlplane.proxy import Call, Watches
from patience import until
from vernal_operator.kinds import POOLS

pytestmark = pytest.mark.apiserver


class Kopf:
    def __init__(self, case: Case, log: Path) -> None:
        self.case, self.log = case, log
        config = log.with_suffix(".kubeconfig")
        config.write_text(yaml.dump(kubeconfig(case.proxy.url, case.server.token)))
        self.process = subprocess.Popen(
            [sys.executable, kopf_alone.__file__, case.namespace],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"KUBECONFIG": str(config)},
        )

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def wait(self, text: str) -> None:
        until(text, lambda: self.said(text), more=self.log.read_text)

    def wait_end(self) -> str:
        until("kopf to end", lambda: self.process.poll() is not None, more=self.log.read_text)
        return self.log.read_text()


def lists(call: Call) -> bool:
    return call.method == "GET" and call.path.endswith(POOLS.plural) and not call.is_watch


@contextmanager
def running(case: Case, tmp_path: Path) -> Iterator[Kopf]:
    """It has seen the pool and watches."""
    case.create(pool(replicas=1))
    kopf = Kopf(case, tmp_path / "kopf.log")
    try:
        kopf.wait(f"event None {POOL}")
        until(
            "its watch", lambda: any(c.is_watch and c.status == 200 for c in case.proxy.calls), more=kopf.log.read_text
        )
        yield kopf
    finally:
        kopf.process.kill()
        kopf.process.wait()


def test_it_ends_where_a_watch_is_refused_with_410(case: Case, tmp_path: Path) -> None:
    with running(case, tmp_path) as kopf:
        case.proxy.set_watches(Watches(expired_when_opened=True))
        assert "410" in kopf.wait_end()


def test_it_ends_at_an_error_event(case: Case, tmp_path: Path) -> None:
    with running(case, tmp_path) as kopf:
        case.proxy.set_watches(Watches(error=500))
        assert "Error in the watch-stream" in kopf.wait_end()


def test_it_opens_a_watch_that_closes_at_once_again_without_a_pause(case: Case, tmp_path: Path) -> None:
    with running(case, tmp_path):
        case.proxy.spoil_watches(Watches(close_at_once=True), kinds=1, times=20)
        until("the watch to be served well", lambda: not case.proxy.watches.spoiled)
        opened = [call.at for call in case.proxy.calls if call.is_watch]
        shortest = min(after - before for before, after in pairwise(opened))
        assert shortest < kopf_alone.PAUSE_SECONDS / 2, shortest


def test_it_never_tells_that_a_pool_went_while_it_did_not_watch(case: Case, tmp_path: Path) -> None:
    with running(case, tmp_path) as kopf:
        case.proxy.set_watches(Watches(error=410))
        found = case.get_pool()
        case.client.delete(POOLS, case.namespace, POOL, found["metadata"]["uid"])
        since = time.monotonic()
        until("a list after that", lambda: any(lists(call) and call.at > since for call in case.proxy.calls))
        case.proxy.set_watches(Watches())
        another = pool(replicas=1)
        another["metadata"]["name"] = "another"
        case.client.create(POOLS, case.namespace, another)
        kopf.wait(" another")
        assert kopf.process.poll() is None
        assert not kopf.said(f"event DELETED {POOL}"), "it compares lists now"
