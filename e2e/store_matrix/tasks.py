"""What other processes do with the store: create, read, collect. The store's real code, called as a worker calls it.

They are run by `children`, which says where they stop.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vernal_contract.identity import digest
from vernal_contract.state import FreezeOutcome
from vernal_worker.store import staging as stagings
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store

from store_matrix import content

Answer = dict[str, Any]
USER = "matrix/claim/"
LONG = 600.0
"""Where nothing hangs, no time-out strikes (seconds)."""


def create(
    root: str, number: int = 1, lease: bool = True, patience: float = LONG, moving: float = 30.0, renew: str = ""
) -> Answer:
    """Publish artifact `number` with a lease, each call on the storage bounded by `patience` seconds, and the renames
    of the end by `moving` more."""
    stagings._MOVE_SECONDS = moving
    store = Store(Path(root), patience=patience, user=USER, renew={renew} if renew else ())
    try:
        held = store.lease(content.IDENTITY, content.HOST, Owner(pod=f"creator-{number}")) if lease else None
        mine = held.try_acquire() if held else None
        if held and mine is None:
            return {"outcome": "leased", "reason": "another creator holds the lease"}
        try:
            return _publish(store, number, mine, patience)
        finally:
            if mine is not None:
                mine.release()
    except StoreError as error:
        return {"outcome": "refused", "reason": error.reason, "message": str(error)}


def _publish(store: Store, number: int, mine: Any, patience: float) -> Answer:
    staging = store.stage(content.IDENTITY, content.HOST)
    try:
        staging.make("process")
        staging.make("process/criu")
        files = content.files(number)
        for name, data in files.items():
            staging.write(name, data)
        done = staging.publish(
            created_by=str(number),
            lease=mine,
            blobs={content.WEIGHTS: [content.digest(files[content.WEIGHTS])]},
            threads=1,
            timeout=patience,
        )
    finally:
        staging.discard()
    outcome = "published" if done.outcome is FreezeOutcome.PUBLISHED else "other's"
    return {"outcome": outcome, "generation": done.artifact.generation}


def read(root: str, patience: float = LONG) -> Answer:
    """Look, hold, check every byte, read, compare with what was written: `whole`, `wrong` or `none`."""
    opened = False
    try:
        lookup = Store(Path(root), patience=patience, user=USER).open(
            content.IDENTITY, content.HOST, Owner(pod="reader")
        )
        if lookup.artifact is None:
            return {"state": "none", "reason": lookup.reason, "message": lookup.message}
        opened = lookup.reading is not None
        try:
            lookup.artifact.verify(threads=1, timeout=patience)
            manifest = lookup.artifact.manifest
            found = {entry.path: lookup.artifact.read(entry.path) for entry in manifest.files}
        finally:
            if lookup.reading is not None:
                lookup.reading.release()
    except StoreError as error:
        return {"state": "none", "reason": error.reason, "message": str(error), "opened": opened}
    right = found == content.files(int(manifest.created_by))
    return {"state": "whole" if right else "wrong", "generation": manifest.generation, "number": manifest.created_by}


def collect(root: str, grace: float = 3600.0) -> Answer:
    """The collector."""
    try:
        return {"went": [f"{item.path}: {item.why}" for item in Store(Path(root), user=USER).gc(grace=grace)]}
    except StoreError as error:
        return {"refused": error.reason, "message": str(error)}


def remove(root: str) -> Answer:
    """The janitor, on a file system that one kernel alone has."""
    try:
        done = Store(Path(root), user=USER).remove(digest(content.IDENTITY), digest(content.HOST), grace=0.0)
    except StoreError as error:
        return {"refused": error.reason, "message": str(error)}
    return {"busy": list(done.busy), "kept": list(done.kept)}


TASKS: dict[str, Callable[..., Answer]] = {"create": create, "read": read, "collect": collect, "remove": remove}


def settle() -> None:
    """Wait for the threads that were left behind: what they do after they were given up is done then."""
    for thread in threading.enumerate():
        while thread is not threading.current_thread() and thread.is_alive():
            time.sleep(0.01)
