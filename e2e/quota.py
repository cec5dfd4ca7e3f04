"""A limit on what processes may take of the CPU, by cgroups of either version (cgroups(7)). Needs root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "vernal-quota-"
"""How a group's name begins; the PID of who made it follows."""
PERIOD = 100_000  # microseconds; the kernel's default
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class QuotaError(Exception):
    """This machine has no cgroup that can limit the CPU, or it may not be used."""


@dataclass(frozen=True)
class Hierarchy:
    """The cgroups that limit the CPU: where they are mounted, and which version (1 or 2)."""

    root: Path
    version: int

    def write(self, group: Path, cores: float | None) -> None:
        """Limit a group's processes to so many cores together; None takes the limit away."""
        quota = None if cores is None else int(cores * PERIOD)
        if self.version == 2:
            (group / "cpu.max").write_text(f"{'max' if quota is None else quota} {PERIOD}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(-1 if quota is None else quota))

    def read(self, group: Path) -> float | None:
        """The limit in cores; None if there is none."""
        if self.version == 2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)


def hierarchy(mounts: str) -> Hierarchy:
    """Which one limits the CPU on a machine with these mounts, the text of /proc/self/mounts.

    Where both versions are mounted (hybrid), a controller belongs to the first if that has it.

    Raises:
        QuotaError: none does.
    """
    second: Hierarchy | None = None
    for line in mounts.splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return Hierarchy(Path(place), 1)
        if kind == "cgroup2" and second is None:
            second = Hierarchy(Path(place), 2)
    if second is None:
        raise QuotaError("no cgroup hierarchy with the cpu controller is mounted: mount one under /sys/fs/cgroup")
    return second


class Quota:
    """Groups with a limit of `cores` each. Use as a context manager: at its end they are gone, also after an error;
    what still runs in them then goes on without a limit."""

    def __init__(self, cores: float, found: Hierarchy | None = None) -> None:
        """Raises: QuotaError."""
        self.cores = cores
        self.hierarchy = found or hierarchy(Path("/proc/self/mounts").read_text())
        self.top = self.hierarchy.root / f"{NAME}{os.getpid()}"

    def __enter__(self) -> Quota:
        for group in self.hierarchy.root.glob(f"{NAME}*"):  # what a run left that was killed
            if not Path(f"/proc/{group.name.removeprefix(NAME)}").exists():
                self._remove(group)
        try:
            self.top.mkdir()
            if self.hierarchy.version == 2:
                for group in (self.hierarchy.root, self.top):
                    (group / "cgroup.subtree_control").write_text("+cpu")
        except OSError as error:
            self._remove(self.top)
            raise QuotaError(f"{error.filename}: {error.strerror}; as root, on a machine whose cgroups may be written "
                             "to, this works") from error  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._remove(self.top)

    def enter(self, name: str, command: Sequence[str]) -> list[str]:
        """A command that runs `command`, and all that it starts, in the group `name`."""
        group = self.top / name
        group.mkdir(exist_ok=True)
        self.hierarchy.write(group, self.cores)
        return ["sh", "-c", _ENTER, str(group), *command]

    def limit(self, others: str, cores: float | None) -> None:
        """Limit a group that is somebody else's, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.hierarchy.write(self.hierarchy.root / others, cores)

    def _remove(self, top: Path) -> None:
        if not top.exists():
            return
        for group in [*(path for path in top.iterdir() if path.is_dir()), top]:
            self._empty(group)
            group.rmdir()

    def _empty(self, group: Path) -> None:
        while pids := (group / "cgroup.procs").read_text().split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    (self.hierarchy.root / "cgroup.procs").write_text(pid)
