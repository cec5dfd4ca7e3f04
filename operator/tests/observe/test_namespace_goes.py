"""An operator of one namespace, which goes away with a checkpoint in a bucket."""

import time
from typing import Any, cast

import pytest
from observe.test_snapshot import checkpoint
from patience import GUARD_SECONDS
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import CHECKPOINTS, JOBS, NAMESPACES, Key
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.references import References
from vernal_operator.observe.workers import Workers
from vernal_operator.reconcile import Reconciler
from vernal_operator.settings import Settings

FINALIZER = "vernal.dev/artifact-files"


class Going:
    """The API server of a namespace that goes away, to an operator that may not read namespaces."""

    def __init__(self) -> None:
        self.finalizers: list[list[str]] = []

    def get(self, kind: Any, namespace: Any, name: str) -> dict[str, Any]:
        if kind is NAMESPACES:
            raise ApiError(
                403, "Forbidden", "no", sentence='namespaces "ns" is forbidden: User "o" cannot get resource'
            )
        return {"metadata": {"name": name, "namespace": "ns", "uid": "c", "resourceVersion": "9"}}

    def create(self, kind: Any, namespace: str, body: Any) -> dict[str, Any]:
        if kind is JOBS:
            why = "unable to create new content in namespace ns because it is being terminated"
            text = f'jobs.batch "one-janitor" is forbidden: {why}'
            raise ApiError(403, "Forbidden", text, sentence=text, causes=("NamespaceTerminating",))
        return body

    def patch(self, kind: Any, namespace: str, name: str, body: Any) -> dict[str, Any]:
        self.finalizers.append(body["metadata"]["finalizers"])
        return checkpoint("one", "a", deletionTimestamp="2026-11-21T08:00:00Z", resourceVersion="8")

    def apply(self, kind: Any, namespace: str, body: Any, subresource: str = "") -> dict[str, Any]:
        return checkpoint(
            "one", "a", deletionTimestamp="2026-11-21T08:00:00Z", finalizers=[FINALIZER], resourceVersion="7"
        )


@pytest.mark.parametrize("storage", ["claim", "bucket"])
def test_a_checkpoint_does_not_keep_the_namespace(storage: str) -> None:
    client, workers = Going(), Workers()
    observer = Observer(cast(Client, client), Settings(namespace="ns"), lambda *_: None)
    manifest = checkpoint("one", "a", deletionTimestamp="2026-11-21T08:00:00Z", finalizers=[FINALIZER])
    if storage == "bucket":
        manifest["spec"]["storage"] = {"objectStore": {"url": "s3://bucket", "credentialsSecret": {"name": "keys"}}}
    observer.wrote(CHECKPOINTS, manifest)
    reconciler = Reconciler(cast(Client, client), observer, workers, References(observer, workers), lambda _: None)
    until = time.monotonic() + GUARD_SECONDS
    while not client.finalizers and time.monotonic() < until:
        due = reconciler.reconcile(Key(CHECKPOINTS, "ns", "one"))
        time.sleep(min(2.0, due.seconds if due.seconds is not None else 2.0))
    workers.close()
    assert client.finalizers == [[]], "else the namespace is Terminating for ever"
