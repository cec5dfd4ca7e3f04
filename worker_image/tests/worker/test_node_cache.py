"""A worker whose node has a cache: it thaws from there what is right, and from the store what is not.

By itself (`make node-cache-tests`): the cache of 1.5 GB is memory, which other lanes' engines have no room beside.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harm import BIG_FILE, damage, flip_a_bit
from object_store.server import S3Server
from patience import until
from relay import Relay
from vernal_contract import names
from vernal_contract.config import ObjectStoreConfig
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.push import push
from vernal_worker.store import cached, manifest, node_cache
from vernal_worker.store.artifact import load
from worker_pod import Pod, until_listens

StartPod = Callable[..., Pod]
PORT = 9000
"""Of the S3 server, as pods see it."""


@pytest.fixture
def cache() -> Iterator[Path]:
    """Of the node: on tmpfs, which has room (a cache leaves a part of its disk to others)."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-test-cache-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A cache on a disk of its own, of which others leave it what it needs."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(4 << 30)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)
    image.unlink()


def report(pod: Pod) -> NodeCacheReport:
    found = pod.state().node_cache
    assert found is not None
    return found


def filled(pod: Pod) -> NodeCacheReport:
    until("the cache is filled", lambda: report(pod).fill, more=pod.log)
    assert report(pod).fill is CacheFill.FILLED, pod.log()
    return report(pod)


def as_the_engine(pod: Pod, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in the pod, with the one capability that an engine has."""
    enter = ("nsenter", "-t", str(pod.init), "-p", "-m", "setpriv", "--bounding-set", "-all,+dac_override")
    return subprocess.run(
        [*enter, "--inh-caps", "-all", "--no-new-privs", *command], capture_output=True, text=True, check=False
    )


def test_a_node_cache(creator: Pod, store: Path, cache: Path, start_pod: StartPod, tmp_path: Path) -> None:
    """A miss fills it; a hit does without the store's bytes; a poisoned byte is a miss, which fills it again."""
    bad = damage(store, tmp_path / "bad", BIG_FILE, flip_a_bit)  # of which a thaw would fail
    expected, checkpoint = creator.complete(), {"restore_attempts": 1}

    def thawed(where: Path) -> Pod:
        pod = start_pod(where, cache=cache, checkpoint=checkpoint)
        state = pod.wait_ready()
        assert state.start_mode == "Restored" and not state.restore_failures, pod.log()
        assert pod.complete() == expected
        return pod

    first = thawed(store)
    told = filled(first)
    size = first.state().artifact.bytes  # type: ignore[union-attr]
    assert (told.lookup, told.filled_bytes > 0, told.bytes) == (CacheLookup.MISS, True, 0)
    for path in (cache / node_cache.FORMAT).rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path

    # Nobody but process 1 has a way to it.
    assert names.PATH_NODE_CACHE not in Path(f"/proc/{first.init}/mountinfo").read_text()
    assert first.files(names.PATH_NODE_CACHE) == []
    engine = as_the_engine(first, "sh", "-c", "ls /proc/1/fd/ && touch /proc/1/cwd/x")
    assert engine.returncode != 0 and "Permission denied" in engine.stderr, engine
    assert as_the_engine(first, "sh", "-c", "echo $$").returncode == 0
    first.end()

    second = thawed(bad)
    assert (report(second).lookup, report(second).bytes) == (CacheLookup.HIT, size)
    assert report(second).fill is None
    second.end()

    (current,) = store.glob("artifacts/*/*/current")
    known = manifest.decode((current / "manifest.json").read_bytes(), current.resolve().name)
    (entry,) = [entry for entry in known.files if entry.path == BIG_FILE]
    blob = cache / node_cache.FORMAT / "blobs" / cached.name(entry)
    with blob.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, entry.size // 2)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), entry.size // 2)
    third = thawed(store)
    told = filled(third)
    assert told.lookup is CacheLookup.DAMAGED and told.bytes == 0 and told.filled_bytes > 0
    assert "event=node_cache_damaged" in third.log() and "reason=DigestMismatch" in third.log()
    third.end()

    fourth = thawed(bad)
    assert report(fourth).lookup is CacheLookup.HIT
    text = fourth.admin("/metrics")[1].decode()
    assert 'vernal_worker_node_cache_lookups_total{result="Hit"} 1.0' in text
    assert not list((cache / node_cache.FORMAT / node_cache.BUSY).iterdir())


def test_a_bucket_goes_straight_into_the_cache(
    creator: Pod, store: Path, disk: Path, start_pod: StartPod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker of a node fetches it there and thaws it from there; the next one fetches nothing."""
    (current,) = store.glob("artifacts/*/*/current")
    expected = creator.complete()
    (tmp_path / "s3").mkdir()
    with S3Server(tmp_path / "s3") as server, ExitStack() as stack:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{server.make_bucket()}/models"
        push(Objects(url, endpoint=server.url), load(current.resolve()))
        keys = {name: value for name, value in server.environment.items() if name != "AWS_REGION"}
        where = ObjectStoreConfig(url=url, endpoint=f"http://127.0.0.1:{PORT}", region=server.environment["AWS_REGION"])
        for lookup, fill in ((CacheLookup.MISS, CacheFill.FILLED), (CacheLookup.HIT, None)):
            own = tmp_path / f"own-{lookup}"
            own.mkdir()
            pod = start_pod(
                own,
                cache=disk,
                setup=until_listens(PORT),  # the relay
                checkpoint={"object_store": where, "restore_attempts": 1},
                environment={names.ENV_OBJECT_STORE + name: value for name, value in keys.items()},
            )
            stack.enter_context(Relay(pod, PORT, server.port))
            state = pod.wait_ready()
            assert state.start_mode == "Restored" and not state.restore_failures, pod.log()
            assert pod.complete() == expected
            told = report(pod)
            assert (told.lookup, told.fill) == (lookup, fill) and told.bytes == state.artifact.bytes  # type: ignore[union-attr]
            assert ("event=fetch_began" in pod.log()) == (lookup is CacheLookup.MISS) and "pull_began" not in pod.log()
            assert not [path for path in own.rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]
            pod.end()
