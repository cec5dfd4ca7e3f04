"""Can this host freeze and thaw? `supported` is quick and for the start path, `checks` is thorough and for
people."""

import os
import re
import subprocess
from pathlib import Path

from vernal_worker.check import Check
from vernal_worker.checkpoint import pids
from vernal_worker.checkpoint.carry import SHM
from vernal_worker.checkpoint.criu import which
from vernal_worker.checkpoint.cuda.client import driver_problem
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.gpu import Gpus, gpus
from vernal_worker.checkpoint.pids import PID_FLOOR

PIDS_ABOVE_FLOOR = 8_192
"""How many PIDs and thread ids a tree may need: vLLM's with one GPU has a few hundred."""

CRIU_VERSION = (4, 2)
"""4.1.1 freezes the CPU engine, but gave up without a message on AsyncLLM with a GPU."""

SHM_BYTES = 256 << 20
"""The queues between vLLM's processes are 160 MiB for one worker; a thaw checks what its tree needs."""

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

CAPABILITIES = {
    "DAC_READ_SEARCH": 2,  # linkat(2) of an open file: `--link-remap`
    "SETPCAP": 8,  # to take capabilities from the engine for good
    "NET_ADMIN": 12,  # TCP_REPAIR
    "SYS_CHROOT": 18,  # each restored process sets its root
    "SYS_PTRACE": 19,  # to seize, and to write memory of, what is not one's child, where Yama is strict
    "SYS_ADMIN": 21,  # PIDs, namespaces, seccomp filters
    "SYS_TIME": 25,  # clock offsets of a thawed tree's time namespace
}
"""What it takes as root, by number (capabilities(7)): with these and no others a freeze and a thaw work."""


def supported(*, criu: str = "criu", pid_floor: int = PID_FLOOR) -> tuple[bool, str]:
    """Whether freezing and thawing can work here, and what is missing if not. Runs no program, takes
    milliseconds."""
    problems = [f"{check.name}: {check.detail}; {check.remedy}" for check in _quick(criu, pid_floor) if not check.ok]
    return not problems, "; ".join(problems)


def checks(*, criu: str = "criu", pid_floor: int = PID_FLOOR) -> list[Check]:
    """Everything `supported` looks at, each with detail and remedy, and CRIU's version, `criu check`, huge pages."""
    found = _quick(criu, pid_floor)
    if found[0].ok:
        found += [_version(criu), _criu_check(criu)]
    return [*found, _huge_pages()]


def _quick(criu: str, pid_floor: int) -> list[Check]:
    return [
        _program(criu),
        _capabilities(),
        _seccomp(),
        _kernel(),
        _pid_max(pid_floor),
        _last_pid(),
        _shm(),
        *_gpu(gpus()),
    ]


def _gpu(found: Gpus) -> list[Check]:
    if not found.count:
        return []
    problem = driver_problem(found.driver)
    detail = problem or f"{found.count} {found.product}, driver {found.driver}"
    return [Check("gpu driver", problem is None, detail, "install a newer NVIDIA driver on the node")]


def _program(criu: str) -> Check:
    path = which(criu)
    return Check("criu", path is not None, path or f"no program {criu!r}", "use the worker image: it carries CRIU")


def _capabilities() -> Check:
    effective = int(_status("CapEff") or "0", 16)
    missing = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    detail = f"missing {', '.join(missing)}" if missing else "all there"
    return Check(
        "capabilities",
        not missing,
        detail,
        f"run as root with {', '.join(CAPABILITIES)} in securityContext.capabilities.add",
    )


def _seccomp() -> Check:
    # The kernel shows a seccomp filter of another process only to one without any
    # (PTRACE_SECCOMP_GET_FILTER).
    mode = _status("Seccomp")
    detail = "none" if mode == "0" else "this process is under a seccomp filter, so CRIU cannot dump the engine's"
    return Check("seccomp", mode == "0", detail, "set securityContext.seccompProfile.type to Unconfined")


def _kernel() -> Check:
    missing = [
        str(p) for p in (pids.LAST_PID, Path("/proc/self/map_files"), Path("/proc/self/pagemap")) if not p.exists()
    ]
    detail = f"no {', '.join(missing)}" if missing else f"{os.uname().release} has CONFIG_CHECKPOINT_RESTORE"
    return Check("kernel", not missing, detail, "use a kernel with CONFIG_CHECKPOINT_RESTORE=y (as distributions' are)")


def _pid_max(pid_floor: int) -> Check:
    least = pid_floor + PIDS_ABOVE_FLOOR
    have = int(pids.PID_MAX.read_text())
    return Check(
        "pid_max", have >= least, f"{have}, {least} or more needed", f"sysctl kernel.pid_max={2 * least} on the node"
    )


def _last_pid() -> Check:
    try:
        pids.set_last(pids.last())
    except (CheckpointError, OSError, ValueError) as e:
        return Check("ns_last_pid", False, str(e), "the container needs SYS_ADMIN, and no LSM profile that denies it")
    return Check("ns_last_pid", True, "can be set")


def _version(criu: str) -> Check:
    """Also catches a CRIU that does not run at all, e.g. one built for a newer libc."""
    output = _run([criu, "--version"])
    found = re.search(r"Version: (\d+)\.(\d+)", output)
    new_enough = found is not None and (int(found[1]), int(found[2])) >= CRIU_VERSION
    wanted = ".".join(map(str, CRIU_VERSION))
    detail = found[0] if found else f"no version in {output!r}"
    return Check("criu version", new_enough, detail, f"use CRIU {wanted} or newer, as in the worker image")


def _criu_check(criu: str) -> Check:
    output = _run([criu, "check"])
    return Check(
        "criu check", "Looks good" in output, output, "see the lines of `criu check`: each names what is missing"
    )


def _shm() -> Check:
    info = os.statvfs(SHM)
    size = info.f_frsize * info.f_blocks
    remedy = "mount an emptyDir with medium Memory at /dev/shm (spec.sharedMemorySize)"
    enough = size >= SHM_BYTES or not info.f_blocks  # a tmpfs without a limit has no blocks
    return Check(str(SHM), enough, f"{size / (1 << 20):.0f} MiB", remedy)


def _huge_pages() -> Check:
    """Never a problem: without them a thaw is only slower."""
    try:
        found = re.search(r"\[(\w+)\]", HUGE_PAGES.read_text())
    except OSError:
        found = None
    setting = found[1] if found else "not there"
    advice = "" if setting in ("always", "madvise") else f"; thaws are faster after `echo madvise > {HUGE_PAGES}`"
    return Check("huge pages", True, setting + advice)


def _status(key: str) -> str | None:
    found = re.search(rf"^{key}:\s*(\S+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found[1] if found else None


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return str(e)
    return (done.stdout + done.stderr).strip()
