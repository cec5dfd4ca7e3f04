"""Can this host freeze and thaw? `supported` is quick and for the start path, `checks` is thorough and for
people."""

from dataclasses import dataclass

from thaw_worker.checkpoint.launch import PID_FLOOR


@dataclass(frozen=True)
class Check:
    """One thing looked at. `remedy` says what to do if it is not `ok`."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def supported(*, criu: str = "criu", pid_floor: int = PID_FLOOR) -> tuple[bool, str]:
    """Whether freezing and thawing can work here, and what is missing if not. Takes less than 20 ms, runs
    no program."""
    raise NotImplementedError


def checks(*, criu: str = "criu", pid_floor: int = PID_FLOOR) -> list[Check]:
    """Everything `supported` looks at, each with detail and remedy, and CRIU's version, `criu check`,
    /dev/shm."""
    raise NotImplementedError
