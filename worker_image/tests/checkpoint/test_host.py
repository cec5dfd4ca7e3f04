"""The host tuple names what a frozen process relies on, and nothing that differs between equal hosts."""

from pathlib import Path

import pytest
from vernal_contract.identity import digest
from vernal_worker.checkpoint import gpu, host

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu sse2 avx2 avx512f amx_tile xsave erms constant_tsc hypervisor md_clear ibrs

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu sse2 avx2 xsave erms constant_tsc hypervisor md_clear ibrs
"""
ARM = """processor\t: 0
Features\t: fp asimd sve sve2 paca
CPU implementer\t: 0x41
"""
MOUNTINFO = r"""
1 0 0:50 / / rw - overlay overlay rw
2 1 0:51 / /proc rw - proc proc rw
3 2 0:51 /sys /proc/sys ro - proc proc rw
4 1 0:52 / /dev rw - tmpfs tmpfs rw
5 4 0:53 / /dev/shm rw - tmpfs shm rw
6 1 8:1 /pods/x/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw
7 1 0:54 / /var/lib/vernal/store rw - nfs4 server:/x rw
8 1 0:55 / /models\040of\040mine rw - ext4 /dev/sdb rw
9 1 0:56 / /run/secrets/kubernetes.io/serviceaccount ro - tmpfs tmpfs rw
""".strip()
VERSIONS = {
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (x@)  \nGCC": "580.159.04",
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54  Tue May  9 12:00:00 UTC 2023\nGCC version": "535.54",
}
INFORMATION = """Model: \t\t NVIDIA {model}
IRQ:   \t\t 41
GPU UUID: \t GPU-{minor}
Device Minor: \t {minor}
GPU Excluded:\t No
"""


def test_this_host() -> None:
    found = host.host_tuple(["/b", "/a", "/b"])
    assert found.mounts == ("/a", "/b")
    assert found.kernel.count(".") == 1
    assert found.cpu_features == tuple(sorted(set(found.cpu_features)))
    assert {"sse2", "asimd"} & set(found.cpu_features)
    assert digest(found) == digest(host.host_tuple(["/a", "/b"]))
    assert "/proc" not in host.host_tuple().mounts


def test_features_that_every_cpu_has_and_programs_use() -> None:
    assert host.cpu_features(INTEL) == ("avx2", "erms", "fpu", "sse2", "xsave")
    assert host.cpu_features(ARM) == ("asimd", "fp", "paca", "sve", "sve2")


def test_mounts_of_the_container_runtime_do_not_count() -> None:
    assert host.mount_destinations(MOUNTINFO) == ["/var/lib/vernal/store", "/models of mine"]


@pytest.mark.parametrize("version", VERSIONS)
def test_gpus_of_this_container(tmp_path: Path, version: str) -> None:
    """The host has three; the container was given two, as its device nodes say."""
    driver, dev = tmp_path / "nvidia", tmp_path / "dev"
    dev.mkdir()
    for minor, model in enumerate(["H200", "L4", "H200"]):
        directory = driver / "gpus" / f"0000:0{minor}:00.0"
        directory.mkdir(parents=True)
        (directory / "information").write_text(INFORMATION.format(model=model, minor=minor))
    (driver / "version").write_text(version)
    for minor in (0, 2):
        (dev / f"nvidia{minor}").touch()
    assert gpu.gpus(str(driver), str(dev)) == gpu.Gpus("NVIDIA H200", 2, VERSIONS[version], ("GPU-0", "GPU-2"))
    assert gpu.gpus(str(tmp_path / "none"), str(dev)) == gpu.Gpus()
