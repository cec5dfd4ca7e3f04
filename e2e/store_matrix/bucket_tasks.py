"""What other processes do with a bucket: push, pull, remove and collect. The real code, against a real server."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from vernal_contract.identity import digest
from vernal_contract.state import FreezeOutcome
from vernal_worker.bucket import collect as collecting
from vernal_worker.bucket import objects as connections
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.pull import pull
from vernal_worker.bucket.push import push
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import Store

from store_matrix import content, tasks

Answer = dict[str, Any]


def _objects(url: str, endpoint: str, retry: float, silent: float) -> Objects:
    connections._SILENT_SECONDS = silent
    return Objects(url, endpoint=endpoint, retry_seconds=retry)


def push_one(root: str, url: str, endpoint: str, retry: float = 60.0, silent: float = 30.0) -> Answer:
    """Push what is current in the store at `root`."""
    artifact = Store(Path(root)).find(content.IDENTITY, content.HOST).artifact
    assert artifact is not None
    try:
        done = push(_objects(url, endpoint, retry, silent), artifact)
    except StoreError as error:
        return {"outcome": "refused", "reason": error.reason, "message": str(error)}
    outcome = "published" if done.outcome is FreezeOutcome.PUBLISHED else "other's"
    return {"outcome": outcome, "generation": done.generation}


def pull_one(root: str, url: str, endpoint: str, retry: float = 60.0, silent: float = 30.0) -> Answer:
    """Pull into the empty store at `root` and read what came, as whoever thaws reads it."""
    place = Place.of(digest(content.IDENTITY), digest(content.HOST))
    try:
        pull(_objects(url, endpoint, retry, silent), Path(root), place)
    except StoreError as error:
        with suppress(StoreError):  # what is there all the same is found by whoever looks
            found = tasks.read(root)
            if found["state"] != "none":
                return found
        return {"state": "none", "reason": error.reason, "message": str(error)}
    return tasks.read(root)


def remove_all(root: str, url: str, endpoint: str) -> Answer:
    """Nobody finds the artifact any more; then all that nobody needs goes."""
    objects = Objects(url, endpoint=endpoint)
    gone = collecting.remove(objects, digest(content.IDENTITY))
    for _ in range(2):  # the first run marks
        collecting.collect(objects, grace=0.0)
    return {"gone": gone.count}


tasks.TASKS.update({"push": push_one, "pull": pull_one, "remove_all": remove_all})
