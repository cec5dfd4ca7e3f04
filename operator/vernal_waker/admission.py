"""How many requests are held at most, and how many bytes of them.

Always
    held requests <= `requests`, those of one pool <= `per_pool`, their bytes <= `size`, those of one <= `body`
    bytes of one pool <= its part of `size`, which is that of `requests`, and room for one body
    what left counts nothing

A request that could not be held whole by what it says of its length is not let in. What counts is what has come: who
only announces a body keeps nobody else out.
"""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one waker. Bytes are those of bodies, which are kept until a worker has begun to answer, and of large headers.

    Attributes:
        connections: of clients, in a request or not.
    """

    requests: int = 2000
    per_pool: int = 1000
    size: int = 256 << 20
    body: int = 64 << 20
    connections: int = 4000

    @property
    def pool_size(self) -> int:
        """Bytes of one pool's requests: one that does not start leaves room for the others."""
        share = self.size * min(self.per_pool, self.requests) // self.requests
        return min(self.size, max(share, self.body))


SMALL_HEADER = 4 << 10
"""That a request costs anyway."""


class Refusal(Enum):
    """Why a request is not held."""

    REQUESTS = "as many requests are held as may be"
    POOL = "as many requests of this pool are held as may be"
    BYTES = "as many bytes of requests are held as may be"
    POOL_BYTES = "as many bytes of requests of this pool are held as may be"
    BODY = "the request's body is too large to be held"


class Ticket:
    """One request that is held."""

    __slots__ = ("header", "left", "pool", "size")

    def __init__(self, pool: str, header: int) -> None:
        self.pool, self.header, self.size, self.left = pool, header, 0, False


class Admission:
    """Counts what is held."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.requests = 0
        self.size = 0
        self._pools: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def of(self, pool: str) -> int:
        """Requests of a pool that are held."""
        return self._pools.get(pool, 0)

    def enter(self, pool: str, length: int = 0, header: int = 0) -> Ticket | Refusal:
        """Let a request in.

        Args:
            length: of its body, as far as that is known; counts when it comes (`grow`).
            header: bytes of its header, which has come.
        """
        if self.requests >= self.bounds.requests:
            return Refusal.REQUESTS
        if self.of(pool) >= self.bounds.per_pool:
            return Refusal.POOL
        ticket = Ticket(pool, max(0, 2 * header - SMALL_HEADER))  # it is kept as bytes and as text
        if (refusal := self._why_not(ticket, ticket.header + length)) is not None:
            return refusal
        self._add(ticket, ticket.header)
        self.requests += 1
        self._pools[pool] = self.of(pool) + 1
        return ticket

    def grow(self, ticket: Ticket, length: int) -> Refusal | None:
        """Keep more bytes of a request; None, or why not: then nothing has changed."""
        if (refusal := self._why_not(ticket, length)) is None:
            self._add(ticket, length)
        return refusal

    def _why_not(self, ticket: Ticket, length: int) -> Refusal | None:
        if ticket.size + length - ticket.header > self.bounds.body:
            return Refusal.BODY
        if self.size + length > self.bounds.size:
            return Refusal.BYTES
        if self._sizes.get(ticket.pool, 0) + length > self.bounds.pool_size:
            return Refusal.POOL_BYTES
        return None

    def _add(self, ticket: Ticket, length: int) -> None:
        ticket.size += length
        self.size += length
        self._sizes[ticket.pool] = self._sizes.get(ticket.pool, 0) + length

    def leave(self, ticket: Ticket) -> None:
        """It is held no longer, whatever became of it. Leaving twice is leaving once."""
        if ticket.left:
            return
        ticket.left = True
        self.size -= ticket.size
        self.requests -= 1
        self._sizes[ticket.pool] -= ticket.size
        left = self.of(ticket.pool) - 1
        if left:
            self._pools[ticket.pool] = left
        else:
            del self._pools[ticket.pool], self._sizes[ticket.pool]
