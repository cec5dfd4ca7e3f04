"""The host tuple of this host (`vernal_contract.identity.HostTuple`)."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from vernal_contract.identity import HostTuple

from vernal_worker.checkpoint.cuda import nvml
from vernal_worker.checkpoint.gpu import gpus

CPUINFO = Path("/proc/cpuinfo")
MOUNTINFO = Path("/proc/self/mountinfo")

# x86 flags (proc_cpuinfo(5)) that say what instructions and what register state a program may use. The
# others name mitigations, power management and virtualisation, which differ between equal hosts.
_INSTRUCTIONS = re.compile(
    r"3dnow|3dnowext|3dnowprefetch|abm|adx|aes|amx_.*|avx.*|bmi[12]|cldemote|clflush.*|clwb|clzero|cmov|cx8|cx16|enqcmd"
    r"|erms|f16c|fma|fma4|fpu|fsgsbase|fsrm|fxsr|fxsr_opt|gfni|hle|lahf_lm|lm|lzcnt|mmx|mmxext|monitorx|movbe|movdir.*"
    r"|msr|mwaitx|nx|ospke|pclmulqdq|pku|pni|popcnt|prefetchi|rdpid|rdrand|rdseed|rdtscp|rtm|serialize|sha.*|sm[34]"
    r"|sse.*|ssse3|syscall|tbm|tsc|tsxldtrk|user_shstk|vaes|vpclmulqdq|waitpkg|xop|xsave.*|xgetbv1"
)

# Mounts that the runtime makes for every container, and file systems without files of anybody's.
RUNTIMES = re.compile(
    r"/|/proc(/.*)?|/sys(/.*)?|/dev(/.*)?|/etc/(hosts|hostname|resolv\.conf)|/(var/)?run/secrets/kubernetes\.io(/.*)?"
)


def host_tuple(mounts: Iterable[str] | None = None, devices: list[nvml.Device] | None = None) -> HostTuple:
    """Describe this host.

    `mounts`: destinations that the tree may have open; None takes those of this mount namespace that are
    not the runtime's own (/proc, /sys, /dev, /etc/hosts and the like).
    `devices`: what `nvml.devices` says of all GPUs here; None to ask it.
    """
    found = gpus()
    if devices is None or not found.count:
        devices = nvml.devices(found.uuids) if found.count else []
    return HostTuple(
        architecture=os.uname().machine,
        cpu_features=cpu_features(CPUINFO.read_text()),
        kernel=".".join(os.uname().release.split(".")[:2]),
        gpu_product=", ".join(sorted({device.name for device in devices})) or found.product,
        gpu_count=len(devices) or found.count,
        gpu_memory_gib=tuple(sorted(round(device.bytes / (1 << 30)) for device in devices)),
        gpu_compute_capability=", ".join(sorted({device.capability for device in devices})) or None,
        gpu_driver=found.driver,
        mounts=tuple(sorted(set(mount_destinations(MOUNTINFO.read_text()) if mounts is None else mounts))),
    )


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """The features that every CPU has, of those a program may rely on, sorted. On Arm all of `Features`
    count."""
    every = [set(m[2].split()) for m in re.finditer(r"^(flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)]
    common = set.intersection(*every) if every else set()
    if re.search(r"^flags\s*:", cpuinfo, re.MULTILINE):
        common = {flag for flag in common if _INSTRUCTIONS.fullmatch(flag)}
    return tuple(sorted(common))


def mount_destinations(mountinfo: str) -> list[str]:
    """Mount points (field 5 of proc_pid_mountinfo(5)) that are not the runtime's own."""
    points = (unescape(line.split()[4]) for line in mountinfo.splitlines())
    return [point for point in points if not RUNTIMES.fullmatch(point)]


def unescape(field: str) -> str:
    """A path as mountinfo writes it."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)
