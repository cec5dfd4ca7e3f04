"""The host tuple of this host (`thaw_contract.identity.HostTuple`)."""

from collections.abc import Iterable

from thaw_contract.identity import HostTuple


def host_tuple(mounts: Iterable[str] | None = None) -> HostTuple:
    """Describe this host. `mounts`: destinations that the tree may have open; None takes those of this
    mount namespace that are not the runtime's own (/proc, /sys, /dev, /etc/hosts and the like)."""
    raise NotImplementedError
