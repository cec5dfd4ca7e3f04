"""What the engine asks of all connectors of its process: at the end, before a freeze, after a thaw.

vLLM makes the connectors (one for the scheduler, one for each worker) and gives nobody a handle; so they sign up here.
"""

import weakref
from pathlib import Path
from typing import Protocol

from vernal_worker.kv.settings import DEFAULT_FLUSH_SECONDS


class Connector(Protocol):
    def flush(self, timeout: float) -> bool: ...

    def release(self, timeout: float) -> None: ...

    def reconnect(self, path: Path | None) -> None: ...

    def reset_cache(self) -> bool: ...


_connectors: "weakref.WeakSet[Connector]" = weakref.WeakSet()


def sign_up(connector: Connector) -> None:
    _connectors.add(connector)


def weights_changed() -> None:
    """What is in the store was computed with other weights than what is to come."""
    for connector in list(_connectors):
        connector.reset_cache()


def flush(timeout: float = DEFAULT_FLUSH_SECONDS) -> bool:
    """Wait until all saves of this process are written, `timeout` seconds at most; returns whether they are.

    For a worker that is about to exit: vLLM itself gives its processes only seconds.
    """
    flushed = [connector.flush(timeout) for connector in list(_connectors)]
    return all(flushed)


def release(timeout: float = DEFAULT_FLUSH_SECONDS) -> None:
    """Finish saves and let go of the store and of all memory for copies. Until `reconnect`, nothing is loaded or saved.

    For a worker that is about to be frozen: the store of this pod means nothing to the pod of a later thaw.
    """
    for connector in list(_connectors):
        connector.release(timeout)


def reconnect(path: str | None = None) -> None:
    """Use the store under `path`, or the configured one. Harmless if connected already.

    For a worker that was thawed, or that goes on after it was frozen. A store that cannot be used is no error: the
    worker serves without, and the log says so.
    """
    for connector in list(_connectors):
        connector.reconnect(Path(path) if path is not None else None)
