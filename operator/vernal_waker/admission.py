"""How many requests are held at most, and how many bytes of them.

Always
    held requests <= `requests`, those of one pool <= `per_pool`, their bytes <= `size`, those of one <= `body`
    what left counts nothing

A request whose length is known is let in whole or not at all; of one whose length is not known, each piece is.
"""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one waker. Bytes are those of bodies, which are kept until a worker has begun to answer."""

    requests: int = 2000
    per_pool: int = 1000
    size: int = 256 << 20
    body: int = 64 << 20


class Refusal(Enum):
    """Why a request is not held."""

    REQUESTS = "as many requests are held as may be"
    POOL = "as many requests of this pool are held as may be"
    BYTES = "as many bytes of requests are held as may be"
    BODY = "the request's body is too large to be held"


class Ticket:
    """One request that is held."""

    __slots__ = ("left", "pool", "size")

    def __init__(self, pool: str) -> None:
        self.pool, self.size, self.left = pool, 0, False


class Admission:
    """Counts what is held."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.requests = 0
        self.size = 0
        self._pools: dict[str, int] = {}

    def of(self, pool: str) -> int:
        """Requests of a pool that are held."""
        return self._pools.get(pool, 0)

    def enter(self, pool: str, length: int = 0) -> Ticket | Refusal:
        """Let a request in, with the length of its body as far as that is known."""
        if self.requests >= self.bounds.requests:
            return Refusal.REQUESTS
        if self.of(pool) >= self.bounds.per_pool:
            return Refusal.POOL
        ticket = Ticket(pool)
        if (refusal := self.grow(ticket, length)) is not None:
            return refusal
        self.requests += 1
        self._pools[pool] = self.of(pool) + 1
        return ticket

    def grow(self, ticket: Ticket, length: int) -> Refusal | None:
        """Keep more bytes of a request; None, or why not: then nothing has changed."""
        if ticket.size + length > self.bounds.body:
            return Refusal.BODY
        if self.size + length > self.bounds.size:
            return Refusal.BYTES
        ticket.size += length
        self.size += length
        return None

    def leave(self, ticket: Ticket) -> None:
        """It is held no longer, whatever became of it. Leaving twice is leaving once."""
        if ticket.left:
            return
        ticket.left = True
        self.size -= ticket.size
        self.requests -= 1
        left = self.of(ticket.pool) - 1
        if left:
            self._pools[ticket.pool] = left
        else:
            del self._pools[ticket.pool]
