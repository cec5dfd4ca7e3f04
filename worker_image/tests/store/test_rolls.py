"""Roll after roll, each with a new identity: what the store takes does not grow, in bytes and in inodes."""

import os
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3
from vernal_contract.identity import digest
from vernal_worker.store import usage
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store

ROLLS = 200
WEIGHTS = [os.urandom(20_000), os.urandom(20_000)]


def test_two_hundred_rolls_take_no_more_than_one(memory: Path, identity: Any, host: Any, filled: Any) -> None:
    """As a pool does it: freeze under the lease, thaw, and the janitor once the revision before is not used any more.
    Every tenth roll changes the weights."""
    store = Store(memory, user="ns/claim/")
    sizes, old = [], None
    for roll in range(ROLLS):
        new = msgspec.structs.replace(identity, image_id=f"sha256:{roll:03}")
        weights = WEIGHTS[roll // 10 % 2]
        lease = store.lease(new, host, Owner(pod="a")).try_acquire()
        assert lease is not None
        with lease:
            staging = filled(store.stage(new, host), seed=roll)
            (staging.dir / "weights").write_bytes(weights)
            staging.publish(created_by="a", lease=lease, threads=1, blobs={"weights": [blake3(weights).hexdigest()]})
        lookup = store.open(new, host, Owner(pod="b"))
        assert lookup.artifact is not None and lookup.reading is not None
        with lookup.reading:
            lookup.artifact.verify(threads=1)
        if old is not None:
            assert store.remove(digest(old), digest(host)).busy == ()
        old = new
        sizes.append(usage.size(memory))
    # Between two rolls there is one artifact; every tenth time its weights are others.
    assert len(set(sizes[1:])) == 1, f"bytes and inodes after each roll: {sorted(set(sizes))}"
    assert old is not None
    store.remove(digest(old), digest(host))
    assert not [path for path in memory.rglob("*") if path.is_file()]
