"""What a thaw would not find elsewhere is refused at the freeze, by name, and the tree runs on."""

import time
from pathlib import Path
from typing import Any

import pytest
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint import surroundings

MOUNTINFO = r"""
1 0 0:50 / / rw - overlay overlay rw
2 1 8:1 /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/scratch /scratch rw - ext4 /dev/sda1 rw
3 1 0:54 / /models\040of\040mine rw - nfs4 server:/x rw
4 1 0:52 / /dev rw - tmpfs tmpfs rw
""".strip()


@pytest.fixture
def mounts() -> list[surroundings.Mount]:
    return surroundings.mounts(MOUNTINFO)


def test_what_is_this_containers_own(mounts: list[surroundings.Mount], tmp_path: Path) -> None:
    """By where it is and when it was changed: here every file of the test's directory is of the root's mount."""
    old, new, carried = tmp_path / "old", tmp_path / "new", tmp_path / "carried"
    old.touch()
    since = old.stat().st_ctime
    while not new.exists() or new.stat().st_ctime <= since:  # until the file system's clock has moved on
        new.unlink(missing_ok=True)
        new.touch()
        time.sleep(0.002)
    carried.mkdir()
    (carried / "kernel.so").touch()
    paths = [str(path) for path in (old, new, tmp_path, carried / "kernel.so", tmp_path / "gone")]
    assert list(surroundings._strays(paths, [carried], since, mounts)) == [str(new)]
    shared = [*mounts, surroundings.Mount(str(tmp_path), "/", "nfs4")]
    assert list(surroundings._strays(paths, [carried], since, shared)) == []
    scratch = [*mounts, surroundings.Mount(str(tmp_path), "/pods/u/volumes/kubernetes.io~empty-dir/x", "ext4")]
    assert list(surroundings._strays(paths, [carried], since, scratch)) == [str(new)]


def test_mount_points_are_read_as_the_kernel_writes_them(mounts: list[surroundings.Mount]) -> None:
    assert [mount.point for mount in mounts] == ["/", "/scratch", "/models of mine", "/dev"]


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 11 1
   1: 0708090A:9C42 0100000A:10DD 01 00000000:00000000 00:00000000 00000000     0        0 12 1
   2: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1
   3: 0708090A:1F92 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 14 1
"""


def test_connections_that_lead_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"/proc/7/net/tcp": TCP}
    monkeypatch.setattr(Path, "read_text", lambda self: tables.get(str(self), "header"))
    assert surroundings.connections(7) == {
        "12": "tcp to 10.0.0.1 port 4317",
        "14": "tcp at 10.9.8.7 port 8082",
    }


@pytest.mark.integration
def test_a_file_of_this_pod_only_is_refused_by_name_and_the_tree_runs_on(pods: Any, pod_error: type[Exception]) -> None:
    """As a just-in-time compiler leaves them in the home directory."""
    source = pods()
    began = time.time() - 5
    source.launch()
    source.sh("mkdir /tmp/home")
    source.ask("open", "/tmp/home/compiled.so")
    with pytest.raises(pod_error, match=r"/tmp/home/compiled\.so") as refused:
        source.freeze("first", since=began)
    assert vars(refused.value)["reason"] == Reason.FILES_NOT_CARRIED
    assert source.ask("append", "more") == "written beforemore"
    frozen = source.freeze("second", since=began, carry=["/dev/shm", "/tmp/home", "/run/tree"])
    assert frozen["mounts"] == []


@pytest.mark.integration
def test_a_connection_that_leads_out_is_refused_by_name_and_may_be_closed(
    pods: Any, pod_error: type[Exception]
) -> None:
    """As a tracer or a hub client keeps one."""
    source = pods()
    began = time.time() - 5
    source.launch()
    port = source.listen_at("10.9.8.7")
    source.ask("dial", "10.9.8.7", port)
    with pytest.raises(pod_error, match=rf"tcp to 10\.9\.8\.7 port {port}") as refused:
        source.freeze("first", since=began)
    assert vars(refused.value)["reason"] == Reason.CONNECTIONS_OPEN
    source.ask("disconnect")
    source.freeze("second", since=began)


@pytest.mark.integration
def test_only_mounts_that_the_tree_uses_are_named(pods: Any) -> None:
    source = pods()
    source.launch()
    source.sh("mkdir /tmp/used /tmp/beside; for d in used beside; do mount -t tmpfs t /tmp/$d; done; touch /tmp/used/x")
    source.ask("open", "/tmp/used/x")
    assert source.freeze("image")["mounts"] == ["/tmp/used"]
