"""The EndpointSlice that leads a pool's Service to the waker.

It stands beside those that Kubernetes keeps for the pool's workers, of the same Service. Whether it leads anywhere is
said by `ready` of its endpoints; the port, by which the waker knows the pool, stays while the pool can go to zero.
"""

from collections.abc import Sequence

from vernal_contract import names

from vernal_operator.build.meta import Manifest, Owner, digest
from vernal_operator.kinds import SLICES


def slice_name(pool: str) -> str:
    return f"{pool}-waker"


def waker_slice(owner: Owner, addresses: Sequence[str], port: int, *, ipv6: bool, stands: bool) -> Manifest:
    """`addresses`: of the waker's pods, all of one family; it cannot be changed. `stands`: whether requests are to go
    there.
    """
    content: Manifest = {
        "addressType": "IPv6" if ipv6 else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": stands}} for address in sorted(addresses)],
        "ports": [{"name": names.PORT_NAME_SERVING, "port": port, "protocol": "TCP"}],
    }
    return {
        "apiVersion": SLICES.api_version,
        "kind": SLICES.name,
        "metadata": {
            "name": slice_name(owner.name),
            "namespace": owner.namespace,
            "labels": {
                names.LABEL_POOL: owner.name,
                names.LABEL_COMPONENT: names.COMPONENT_WAKER,
                names.LABEL_SERVICE: owner.name,
                names.LABEL_SLICE_BY: names.FIELD_MANAGER,
            },
            "annotations": {names.ANNOTATION_SPEC_HASH: digest(content)},
            "ownerReferences": [owner.reference()],
        },
    } | content
