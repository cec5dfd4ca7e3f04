"""A tree that was frozen goes on, here and in other pods, as if nothing had happened."""

import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return {**before, "count": 0} == {**after, "count": 0}


def test_source_runs_on_and_other_pods_go_on_from_the_freeze(pods: Any) -> None:
    source = pods()
    pid = source.launch(ballast_mib=32)
    before = source.ask("state")
    frozen = source.freeze("image")
    print("freeze", frozen["timings"], frozen["bytes"])
    assert same(before, source.ask("state"))
    assert not [name for name in source.ls("/dev/shm") if name.startswith("link_remap")]
    for _ in range(2):
        pod = pods()
        print("thaw", pod.thaw("image"))
        after = pod.ask("state")
        assert same(before, after)
        assert after["count"] == 2, "the state is not the one at the freeze"
        assert pod.parent(pid) == 1
        assert pod.ls("/dev/shm") == source.ls("/dev/shm")
        pod.ask("say", "to stdout")
        pod.read_until("to stdout")
        pod.ask("say", "to stderr", "stderr")
        pod.read_until("to stderr", "stderr")
        assert pod.members() == frozen["pids"]
        assert pod.kill() == -9
        assert pod.processes() == []


def test_only_used_pages_of_shared_memory_are_carried(pods: Any, tmp_path: Path) -> None:
    source = pods()
    source.launch()
    frozen = source.freeze("image")
    assert "/dev/shm/psm_subject" in frozen["files"], "64 MiB, of which 8 KiB are used"
    assert (tmp_path / "image" / "files.bin").stat().st_size < 64 << 10
    (tmp_path / "image" / "sizes.json").unlink()  # the agent's own
    assert frozen["bytes"] == sum(f.stat().st_size for f in (tmp_path / "image").rglob("*") if f.is_file())


def test_exit_code_of_a_thawed_tree(pods: Any) -> None:
    source = pods()
    source.launch()
    source.freeze("image")
    pod = pods()
    pod.thaw("image")
    with pytest.raises(Exception, match="Expecting value"):  # it ends before it can answer
        pod.ask("exit", 7)
    assert pod.wait() == 7
    assert pod.kill() == 7


def test_thaw_again_in_the_same_pod(pods: Any) -> None:
    """As after a thaw that failed late: helpers must not take the tree's PIDs meanwhile."""
    pod = pods()
    pod.launch()
    before = pod.ask("state")
    pod.freeze("image")
    for _ in range(3):
        pod.kill()
        pod.sh("rm -rf /dev/shm/* /run/tree/*")
        pod.thaw("image")
        assert same(before, pod.ask("state"))


def test_many_pods_thaw_a_read_only_image_at_once(pods: Any) -> None:
    source = pods()
    source.launch()
    before = source.ask("state")
    source.freeze("image")
    others = [pods() for _ in range(4)]
    for pod in others:
        pod.sh("mount -o remount,bind,ro /run/shared && ! touch /run/shared/x 2>/dev/null")
    threads = [threading.Thread(target=pod.thaw, args=("image",)) for pod in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(before, pod.ask("state")) for pod in others)


MAPS = """
import ctypes, mmap, sys, time
file = open("/run/shared/cache/compiled.so", "rb")
area = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC)
file.close()
print("mapped", flush=True)
while True:
    time.sleep(0.1)
    print(area[:4].decode(), flush=True)
"""


@pytest.mark.parametrize("meanwhile", ["replaced", "removed"])
def test_what_others_did_to_a_mapped_file_of_a_volume(meanwhile: str, pods: Any, tmp_path: Path) -> None:
    """A compile cache that engines share: one maps a file, another writes it once more, or throws it away."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "compiled.so").write_text("old " * 4096)
    source = pods()
    source.launch(argv=["python3", "-S", "-c", MAPS])
    source.read_until("mapped")
    if meanwhile == "replaced":
        (cache / "another.so").write_text("new " * 4096)
        (cache / "another.so").rename(cache / "compiled.so")
    else:
        (cache / "compiled.so").unlink()
    source.freeze("image")
    others = [pods() for _ in range(4)]
    problems = list[Exception]()

    def thaw(pod: Any) -> None:
        try:
            pod.thaw("image")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=thaw, args=(pod,)) for pod in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    for pod in others:
        pod.read_until("old ")


def test_directories_that_travel_with_the_tree(pods: Any) -> None:
    source = pods()
    source.launch()
    source.sh(
        "mkdir -p /tmp/carried/cache/empty; echo 1 > /tmp/carried/cache/kernel;"
        "touch -d @1000000000 /tmp/carried/cache/kernel;"
        "chmod 741 /tmp/carried/cache/*;"
        "ln -s kernel /tmp/carried/cache/soft; ln /tmp/carried/cache/kernel /tmp/carried/cache/zhard"
    )
    source.ask("open", "/tmp/carried/cache/open")
    source.freeze("image", carry=["/dev/shm", "/tmp/carried", "/run/tree"])
    listing = "cd /tmp/carried; find . -printf '%p %y %m %s %n %T@ %l\\n' | grep -v '^. ' | sort | grep -v ' d '; ls -R"
    pod = pods()
    pod.sh("rmdir /run/tree")  # where the tree's own socket is bound
    pod.thaw("image")
    assert pod.sh(listing) == source.sh(listing)
    assert pod.ask("append", ", and after") == "written before, and after"


def test_output_that_nobody_had_read_is_not_repeated(pods: Any) -> None:
    source = pods()
    source.launch()
    source.ask("say", "once")
    source.freeze("image")
    source.read_until("once")
    pod = pods()
    pod.thaw("image")
    pod.ask("say", "more")
    assert "once" not in pod.read_until("more")


def test_capabilities_of_a_container_and_read_only_sysctls_are_enough(pods: Any) -> None:
    from vernal_worker.checkpoint.doctor import CAPABILITIES

    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in CAPABILITIES)])
    read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
    source, pod = (pods("setpriv", "--bounding-set", bounding) for _ in range(2))
    for each in (source, pod):
        each.sh(read_only + " && ! echo 1 > /proc/sys/kernel/ns_last_pid")
        assert each.supported()[:2] == [True, ""]
    assert source.launch() == 10_000
    before = source.ask("state")
    source.freeze("image")
    pod.thaw("image")
    assert same(before, pod.ask("state"))
    pod.kill()
    pod.sh("rm -rf /dev/shm/* /run/tree/*")
    pod.thaw("image")
    assert same(before, pod.ask("state"))
