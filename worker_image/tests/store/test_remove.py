"""What the janitor removes: the artifacts of one identity and host tuple that nobody else needs, with their weights."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from vernal_contract.identity import digest
from vernal_contract.reasons import Reason
from vernal_worker.store import heartbeat
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store

WEIGHTS = os.urandom(1 << 20)


def publish(store: Store, identity: Any, host: Any, filled: Any) -> Any:
    """An artifact with weights that others may have too."""
    staging = filled(store.stage(identity, host))
    (staging.dir / "weights").write_bytes(WEIGHTS)
    return staging.publish(created_by="a", blobs={"weights": [blake3(WEIGHTS).hexdigest()]}).artifact


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def silence(directory: Path) -> None:
    """As if the machines of all who beat there were gone."""
    long_ago = time.time() - heartbeat.SILENCE - 60
    for path in directory.iterdir():
        os.utime(path, (long_ago, long_ago))


def test_the_weights_go_too(store: Any, identity: Any, host: Any, filled: Any) -> None:
    publish(store, identity, host, filled)
    done = store.remove(digest(identity), digest(host))
    assert done.bytes > len(WEIGHTS) and (done.kept, done.busy) == ((), ())
    assert files(store.root) == [] and list((store.root / "artifacts").iterdir()) == []
    assert store.remove(digest(identity)).bytes == 0


def test_one_host_of_an_identity(store: Any, identity: Any, host: Any, other_host: Any, filled: Any) -> None:
    publish(store, identity, host, filled)
    other = publish(store, identity, other_host, filled)
    assert other.ref().shared_bytes == len(WEIGHTS) < other.ref().bytes
    done = store.remove(digest(identity), digest(host))
    assert 0 < done.bytes < len(WEIGHTS), "the weights are the other's as well"
    assert store.find(identity, host).reason == Reason.HOST_MISMATCH
    assert store.find(identity, other_host).artifact == other
    other.verify()
    assert store.remove(digest(identity)).bytes > len(WEIGHTS)
    assert files(store.root) == []


def test_names_are_checked(store: Any, identity: Any) -> None:
    for bad in (("../../etc", ""), (digest(identity), "../x")):
        with pytest.raises(ValueError, match="64 hex digits"):
            store.remove(*bad)


def test_it_stays_until_its_last_user_lets_go(store: Any, identity: Any, host: Any, filled: Any) -> None:
    """Two namespaces whose claims are the same directory: one publishes, the other finds it."""
    first, second = Store(store.root, user="one/claim/"), Store(store.root, user="two/claim/")
    artifact = publish(first, identity, host, filled)
    with second.open(identity, host, Owner(pod="p")).reading:
        pass
    for _ in range(2):
        done = first.remove(digest(identity), digest(host))
        assert "used by two/claim/" in done.kept[0] and done.busy == ()
        assert second.find(identity, host).artifact == artifact
        artifact.verify()
    assert second.remove(digest(identity), digest(host)).kept == ()
    assert files(store.root) == []


def test_a_user_who_comes_at_that_moment_keeps_it(
    store: Any, identity: Any, host: Any, filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the users and the pointer's end."""
    first, second = Store(store.root, user="one"), Store(store.root, user="two")
    artifact = publish(first, identity, host, filled)
    current, rename, opened = artifact.path.parent / "current", Path.rename, []

    def late(path: Path, target: Path) -> Path:
        if path == current:
            opened.append(second.open(identity, host, Owner(pod="p")))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    done = first.remove(digest(identity), digest(host))
    opened[0].reading.release()
    assert "used by two" in done.kept[0]
    assert second.find(identity, host).artifact == artifact


def test_a_reader_is_waited_for_and_new_ones_start_cold(store: Any, identity: Any, host: Any, filled: Any) -> None:
    artifact = publish(store, identity, host, filled)
    opened = store.open(identity, host, Owner(pod="pod-7"))
    done = store.remove(digest(identity), digest(host))
    assert done.busy == (f"pod-7 reads {artifact.generation}",)
    artifact.verify()
    assert store.open(identity, host, Owner(pod="late")).reason == Reason.NO_ARTIFACT
    opened.reading.release()
    assert store.remove(digest(identity), digest(host)).busy == ()
    assert files(store.root) == []


def test_a_reader_whose_machine_is_gone_is_not_waited_for(store: Any, identity: Any, host: Any, filled: Any) -> None:
    artifact = publish(store, identity, host, filled)
    opened = store.open(identity, host, Owner(pod="gone"))
    opened.reading._beat.stop()
    silence(artifact.path.parent / "readers")
    assert store.remove(digest(identity), digest(host)).busy == ()
    assert not artifact.path.exists()


def test_it_is_put_off_while_a_worker_makes_a_checkpoint(store: Any, identity: Any, host: Any, filled: Any) -> None:
    artifact = publish(store, identity, host, filled)
    with store.lease(identity, host, Owner(pod="creator")).try_acquire():
        done = store.remove(digest(identity), digest(host))
        assert "makes a checkpoint" in done.busy[0] and store.find(identity, host).artifact == artifact
    assert store.remove(digest(identity), digest(host)).busy == ()


def test_a_young_generation_is_waited_for(store: Any, identity: Any, host: Any, filled: Any) -> None:
    """Machines may see what is gone for a while."""
    artifact = publish(store, identity, host, filled)
    done = store.remove(digest(identity), digest(host), grace=1.0)
    assert done.busy == () and not artifact.path.exists()
