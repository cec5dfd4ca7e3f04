"""The creator lease: at most one worker freezes for an identity and host tuple."""

import msgspec


class Owner(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who holds a lease; for messages."""

    pod: str
    node: str = ""


class Lease:
    """A held lease, kept alive by a thread until `release`. A context manager."""

    def check(self) -> None:
        """Raises:
        StoreError: `LEASE_LOST`: another took it, or no heartbeat could be written for as long as the lease
            lives.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Give it back and stop the thread. Never raises; twice is fine."""
        raise NotImplementedError


class LeaseRequest:
    """A wish for the lease. Ask early and again later: a dead holder's lease can be taken once its
    heartbeat has been seen to stand still for `ttl` seconds of this process's own clock, and the first
    `try_acquire` starts looking."""

    holder: Owner | None = None  # as of the last try

    def try_acquire(self) -> Lease | None:
        """The lease, or None if another holds it (`holder` says who). Does not wait.

        Raises:
            StoreError: stage lease: the store cannot be written.
        """
        raise NotImplementedError
