"""What software this container has, what GPUs, and what CRIU needs to know, found out by processes beside this one.

To look at every file of vLLM and torch takes about as long as importing all that a thaw needs, and both wait for
nothing. NVML waits for the driver once the CUDA helper initialises it, so it is asked before. Imports little, so that
all of it can begin early.
"""

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from vernal_worker.checkpoint import probing
from vernal_worker.supervisor import beside
from vernal_worker.supervisor.beside import Beside

if TYPE_CHECKING:
    from vernal_worker.checkpoint.cuda.nvml import Device

ENV_CRIU = "VERNAL_CRIU"
"""Where CRIU is, if it is not on the PATH."""


class Software(NamedTuple):
    """`image_id`: the digest of all of it."""

    versions: dict[str, str]
    image_id: str


_looks: list[tuple[str, Beside]] = []
"""Who looks, with which CRIU."""
_asks: list[Beside] = []
"""Who asks NVML."""
_probes: list[int] = []
"""PIDs of whom `probing` began."""
_answers: list[list[tuple[str, int, str]] | None] = []
"""Fields of each `Device`, as they were told."""


def begin() -> None:
    """Begin to look. Must be called before any thread is started: see `beside.begin`."""
    _asks.append(beside.begin(_ask_nvml))
    criu = os.environ.get(ENV_CRIU) or "criu"
    _looks.append((criu, beside.begin(lambda: look(criu))))
    _probes.append(probing.begin(criu))


def find(criu: str) -> Software:
    """What there is: as it was found by whom `begin` started, once; else it is looked for now. Waits for what
    `devices` tells, and for what CRIU needs to know, too."""
    while _asks:
        _answers.append(_asks.pop().take())
    found: Software | None = None
    while _looks:
        with_criu, search = _looks.pop()
        fields = search.take()
        if fields is not None and with_criu == criu:
            found = Software(*fields)
    while _probes:
        probing.wait(_probes.pop())
    return found if found is not None else look(criu)


def forget() -> None:
    """Nobody will ask: what `begin` started is not waited for."""
    while _asks:
        _asks.pop().forget()
    while _looks:
        _looks.pop()[1].forget()
    _probes.clear()


def look(criu: str) -> Software:
    """Looks now. `criu`: its name or path."""
    from vernal_worker.supervisor import image  # here: what begins first waits for no import

    asked = image.ask_criu(criu)  # it takes its time, and so do the files
    versions = image.installed_versions(("vllm", "torch"), sys.path) | {"python": sys.version.split()[0]}

    def all_versions() -> dict[str, str]:
        versions["criu"] = asked()
        return versions

    return Software(versions, image.fingerprint(all_versions))


def devices() -> "list[Device] | None":
    """The GPUs as NVML tells them, found out by whom `begin` started; None if nobody did, if that process did not come
    to an end, or before `find`."""
    from vernal_worker.checkpoint.cuda.nvml import Device

    found = _answers[-1] if _answers else None
    return None if found is None else [Device(*fields) for fields in found]


def _ask_nvml() -> "list[Device]":
    from vernal_worker.checkpoint.gpu import gpus

    if not (uuids := gpus().uuids):
        return []
    from vernal_worker.checkpoint.cuda import nvml  # here: it takes no time where there is no GPU

    return nvml.devices(uuids)
