"""Which pool a request is for, and where its workers are: from the EndpointSlices of pools' Services.

A pool's slice that leads to the waker has a port of its own, which is how the waker knows the pool: it is the only
thing about a connection that no client, proxy or gateway chooses. All other slices of the Service are its workers'.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class PoolName:
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Slice:
    """One EndpointSlice. `ready`: addresses of endpoints that take requests."""

    pool: PoolName
    for_waker: bool
    ready: tuple[str, ...]
    port: int | None


@dataclass(frozen=True, slots=True)
class Route:
    """Attributes:
    port: of the waker, for this pool.
    stands: the Service leads here; else a connection that is still used is an old one.
    targets: workers, as address and port, that take requests.
    """

    port: int
    stands: bool = False
    targets: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """All pools that have a slice for the waker."""

    routes: dict[PoolName, Route] = field(default_factory=dict)

    def by_port(self) -> dict[int, PoolName]:
        """Of two pools with one port, which the operator does not make, neither: no request may reach the other's
        worker.
        """
        found: dict[int, list[PoolName]] = {}
        for pool, route in self.routes.items():
            found.setdefault(route.port, []).append(pool)
        return {port: pools[0] for port, pools in found.items() if len(pools) == 1}


def table(slices: Iterable[Slice]) -> Table:
    wakers: dict[PoolName, Slice] = {}
    targets: dict[PoolName, set[tuple[str, int]]] = {}
    for one in slices:
        if one.port is None:
            continue
        if one.for_waker:
            wakers[one.pool] = one
        else:
            targets.setdefault(one.pool, set()).update((address, one.port) for address in one.ready)
    return Table(
        {
            pool: Route(one.port, bool(one.ready), tuple(sorted(targets.get(pool, ()))))
            for pool, one in wakers.items()
            if one.port is not None
        }
    )
