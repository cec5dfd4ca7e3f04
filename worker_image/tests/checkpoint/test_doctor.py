"""The doctor sees what is missing, and says what to do."""

from pathlib import Path
from typing import Any

import pytest
from vernal_worker.checkpoint.doctor import CAPABILITIES

pytestmark = pytest.mark.integration


def failed(pod: Any, **options: Any) -> dict[str, list[str]]:
    return {name: [detail, remedy] for name, ok, detail, remedy in pod.checks(**options) if not ok}


def test_healthy_host(pods: Any) -> None:
    pod = pods()
    assert failed(pod) == {}
    names = {name for name, *_ in pod.checks()}
    assert {"criu", "criu version", "criu check", "capabilities", "ns_last_pid", "pid_max", "/dev/shm"} <= names
    times = []
    for _ in range(10):
        ok, why, seconds = pod.supported()
        assert (ok, why) == (True, "")
        times.append(seconds)
    print(f"supported() took {min(times) * 1000:.1f} ms")


def test_a_pod_that_has_just_thawed(pods: Any) -> None:
    source = pods()
    source.launch()
    source.freeze("image")
    pod = pods()
    pod.thaw("image")
    assert failed(pod) == {}
    assert pod.supported()[:2] == [True, ""]


@pytest.mark.parametrize("dropped", sorted(set(CAPABILITIES) - {"SYS_ADMIN", "NET_ADMIN"}))
def test_each_capability(pods: Any, dropped: str) -> None:
    pod = pods("setpriv", "--bounding-set", f"-{dropped.lower()}")
    assert failed(pod).keys() >= {"capabilities"}
    ok, why, _ = pod.supported()
    assert not ok
    assert f"capabilities: missing {dropped}; run as root with " in why


def test_what_a_host_may_lack(pods: Any) -> None:
    pod = pods()
    ok, why, _ = pod.supported(pid_floor=5_000_000)
    assert not ok
    assert "pid_max: " in why
    assert "sysctl kernel.pid_max=" in why
    pod.sh("mount -o remount,size=64m /dev/shm")
    assert failed(pod)["/dev/shm"][0] == "64 MiB"
    ok, why, _ = pod.supported()
    assert not ok and "/dev/shm: 64 MiB" in why, "it looks where the doctor looks"


def test_without_criu(pods: Any, tmp_path: Any) -> None:
    pod = pods()
    pod.set_criu("/no/criu")
    assert failed(pod)["criu"][0] == "no program '/no/criu'"
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho Version: 3.17.1\n")
    old.chmod(0o755)
    pod.set_criu("/run/shared/old")
    assert failed(pod).keys() == {"criu version", "criu check"}
    assert pod.supported()[0]


def test_seccomp_filter_of_the_container(pods: Any) -> None:
    """With one, the kernel shows CRIU no filter of the tree."""
    from vernal_worker.checkpoint import _exec

    # The filter that keeps io_uring from the tree serves as the container runtime's here.
    runtime = (
        f"import os, sys; sys.path.insert(0, {str(Path(_exec.__file__).parent)!r}); import _exec;"
        " _exec.refuse_io_uring(); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    pod = pods("python3", "-S", "-c", runtime)
    assert "seccompProfile" in failed(pod)["seccomp"][1]
