"""What is made of the API server's answer to a single write."""

from typing import Any, cast

import pytest
from vernal_operator.act.writer import Writer
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import CHECKPOINTS, SERVICES, Key
from vernal_operator.observe.observer import Observer
from vernal_operator.settings import Settings

KEY = Key(CHECKPOINTS, "ns", "c")
DENIED = 'admission webhook "x.example.com" denied the request: no'
META = {"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "5"}
SPEC = {"identity": "a" * 64, "hostTuple": "b" * 64, "model": "m", "image": "i", "storage": {"claimName": "c"}}


class Refusing:
    """In place of an API server that refuses every write so."""

    def __init__(self, error: ApiError) -> None:
        self.asked: list[str] = []
        self.sent: list[tuple[Any, ...]] = []
        self._error = error

    def __getattr__(self, verb: str) -> Any:
        def refuse(*arguments: Any, **named: Any) -> None:
            self.asked.append(verb)
            self.sent.append(arguments)
            raise self._error

        return refuse


@pytest.mark.parametrize("status", [404, 409, 422, 503])
def test_what_a_webhook_denies_is_not_done_whatever_status_it_names(status: int) -> None:
    client = Refusing(ApiError(status, "NotFound", DENIED, sentence=DENIED))
    observer = Observer(cast(Client, client), Settings(), lambda *_: None)
    observer.wrote(CHECKPOINTS, {"metadata": META, "spec": SPEC})
    writer = Writer(cast(Client, client), observer)
    service = {"metadata": {"name": "c", "labels": {}}, "spec": {"ports": [{"port": 1}]}}
    for write in (
        lambda: writer.create(KEY, CHECKPOINTS, {"metadata": META}, None),
        lambda: writer.delete(KEY, CHECKPOINTS, "c", "u"),
        lambda: writer.status(KEY, {}),
        lambda: writer.finalizers(KEY, ()),
        lambda: writer._apply(SERVICES, "ns", service, exists=True),
    ):
        with pytest.raises(ApiError):
            write()
    assert client.asked == ["create", "delete", "apply", "patch", "apply"], "nothing is read back, and nothing retried"
    assert observer.checkpoints.get("ns", "c") is not None
    writer.resolve(KEY)
    assert len(client.asked) == 5, "nobody doubts what became of it"


def test_replicas_are_set_in_the_version_that_was_decided_on() -> None:
    """Not in one that came since, of which nobody has said that the pool may go to zero."""
    client = Refusing(ApiError(503, "Unavailable", "no"))
    observer = Observer(cast(Client, client), Settings(), lambda *_: None)
    observer.wrote(CHECKPOINTS, {"metadata": META, "spec": SPEC})
    with pytest.raises(ApiError):
        Writer(cast(Client, client), observer).scale(KEY, 0, 4)
    (_, _, _, body, subresource) = client.sent[0]
    assert body == {"metadata": {"uid": "u", "resourceVersion": "4"}, "spec": {"replicas": 0}}
    assert subresource == "scale"
