"""A worker whose node has a cache: it thaws from there what is right, and from the store what is not.

By itself (`make node-cache-tests`): the cache of 1.5 GB is memory, which other lanes' engines have no room beside.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harm import BIG_FILE, damage, flip_a_bit
from patience import until
from vernal_contract import names
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport
from vernal_worker.store import cached, manifest, node_cache
from worker_pod import Pod

StartPod = Callable[..., Pod]


@pytest.fixture
def cache() -> Iterator[Path]:
    """Of the node: on tmpfs, which has room (a cache leaves a part of its disk to others)."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-test-cache-"))
    yield path
    shutil.rmtree(path)


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
