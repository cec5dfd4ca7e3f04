"""Places for clients' connections: how many, and who goes when another one wants a place.

uvicorn bounds none of that. What is cut is counted in `vernal_http_connections_closed_total`.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter, Gauge
from vernal_contract.config import MAX_BODY_BYTES

from vernal_worker import descriptors

_OWN_DESCRIPTORS = 256
"""Never given to clients: the control socket, vLLM's sockets to its processes, files, another log. Where there are not
twice as many, half of what there is."""

_LOG_SECONDS = 10.0
_ROOM_SECONDS = 0.02

_logger = logging.getLogger(__name__)
_closed = Counter("vernal_http_connections_closed", "Connections that the worker cut, and why.", ["reason"])
_open = Gauge("vernal_http_connections", "Connections of clients that are open.")


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, durations in seconds."""

    connections: int | None = None  # None: what the limit of descriptors leaves
    header_bytes: int = 64 << 10
    header_count: int = 256
    header_seconds: float = 20.0  # from a header's first byte to its last
    body_bytes: int = MAX_BODY_BYTES  # of one request, with what frames its chunks
    body_seconds: float = 60.0  # without a byte of a body that is not complete
    body_rate: int = 1 << 10  # bytes a second that a body brings on average, once `body_seconds` are over
    pipeline: int = 16  # requests that wait on one connection for the one before them
    write_seconds: float = 300.0  # without a byte taken by a client whose answer waits
    grace_seconds: float = 1.0  # that a connection may do nothing though others wait for its place
    wait_seconds: float = 2.0  # that a newcomer waits for a place


class Client(Protocol):
    """A connection, as the pool sees it."""

    @property
    def unread(self) -> bool:
        """Whether its client has not taken all that was sent."""

    def evict(self) -> None:
        """Make room, at once."""


class Pool:
    """The open connections of one server. All methods belong to the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.limit = limits.connections or descriptors.WANTED
        # Of each kind the oldest first, and since when it is of that kind. Who is in none is never evicted.
        self._strangers: dict[Client, float] = {}  # no whole header yet
        self._idle: dict[Client, float] = {}  # between two requests
        self._uploading: dict[Client, float] = {}  # in the midst of a body
        self._reading: dict[Client, float] = {}  # has an answer that its client has not taken
        self._dropped: set[Client] = set()  # not gone yet
        self._said: dict[str, float] = {}

    def begin(self) -> None:
        """Count what this process may open: before the first connection."""
        if self.limits.connections is not None:
            return
        allowed = descriptors.raise_limit()
        spare = allowed - descriptors.in_use()
        own = min(_OWN_DESCRIPTORS, spare // 2)
        self.limit = max(1, spare - own)
        if own < _OWN_DESCRIPTORS:
            _logger.warning(
                "this process may open %d descriptors: it takes %d connections. Raise the hard limit (ulimit -n)",
                allowed,
                self.limit,
            )

    async def room(self, count: Callable[[], int]) -> bool:
        """Wait until one more connection may be taken beside the `count` that are open, if need be in the place of one
        that does nothing. A moment's grace is everybody's: who has just come had no chance to ask yet, and newcomers
        wait meanwhile where the kernel keeps them.

        Returns: False if all are busy, for longer than a newcomer should wait.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.wait_seconds
        while count() - len(self._dropped) >= self.limit:
            if (victim := self._victim(loop.time())) is not None:
                victim.evict()
            elif loop.time() > deadline:
                return False
            else:
                await asyncio.sleep(_ROOM_SECONDS)
        return True

    def _victim(self, now: float) -> Client | None:
        while (client := self._oldest(self._idle, now)) is not None and client.unread:
            self._reading[client] = self._idle.pop(client)
        for place in (self._strangers, self._idle, self._uploading, self._reading):
            if (client := self._oldest(place, now)) is not None:
                return client
        return None

    def _oldest(self, place: dict[Client, float], now: float) -> Client | None:
        for client, since in place.items():
            return client if now - since >= self.limits.grace_seconds else None
        return None

    def opened(self, client: Client, count: int) -> None:
        _open.set(count)
        self._strangers[client] = asyncio.get_running_loop().time()

    def busy(self, client: Client) -> None:
        for place in (self._strangers, self._idle, self._uploading, self._reading):
            place.pop(client, None)

    def idle(self, client: Client) -> None:
        self._idle[client] = asyncio.get_running_loop().time()

    def uploading(self, client: Client) -> None:
        self._uploading[client] = asyncio.get_running_loop().time()

    def uploaded(self, client: Client) -> None:
        self._uploading.pop(client, None)

    def last_answer(self, client: Client) -> None:
        """It closes once its client has read."""
        self.busy(client)
        self._reading[client] = asyncio.get_running_loop().time()

    def dropped(self, client: Client) -> None:
        self.busy(client)
        self._dropped.add(client)

    def gone(self, client: Client, count: int) -> None:
        _open.set(count)
        self.busy(client)
        self._dropped.discard(client)

    def cut(self, reason: str) -> None:
        """Count it, and say it, but not for each of a burst."""
        _closed.labels(reason).inc()
        now = time.monotonic()
        if now - self._said.get(reason, -_LOG_SECONDS) >= _LOG_SECONDS:
            self._said[reason] = now
            _logger.warning(
                "a client's connection was cut: %s; vernal_http_connections_closed_total counts them, limit is %d",
                reason,
                self.limit,
            )
