"""What software this container has, and what GPUs, found out by a process beside this one.

To look at every file of vLLM and torch takes about as long as importing all that a thaw needs, and both wait for
nothing. Threads would take turns. NVML waits for the driver, which the CUDA helper keeps busy meanwhile. Imports
little, so that it can begin early.
"""

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from vernal_worker.checkpoint.cuda.nvml import Device

ENV_CRIU = "VERNAL_CRIU"
"""Where CRIU is, if it is not on the PATH."""


class Software(NamedTuple):
    """`image_id`: the digest of all of it."""

    versions: dict[str, str]
    image_id: str


class _Search(NamedTuple):
    """A process that writes a `Software` and the fields of each `Device` into a pipe."""

    criu: str
    pid: int
    answer: int


_begun: list[_Search] = []
_devices: list[tuple[str, int, str]] | None = None


def begin() -> None:
    """Begin to look. Must be called before any thread is started: what others hold stays locked in a forked process."""
    criu, (answer, result) = os.environ.get(ENV_CRIU) or "criu", os.pipe()
    if (pid := os.fork()) == 0:
        try:
            import json  # here, and below: what begins first waits for no import

            devices = _ask_nvml()
            found = look(criu)
            os.write(result, json.dumps([found.versions, found.image_id, devices()]).encode())
        finally:
            os._exit(0)
    os.close(result)
    _begun.append(_Search(criu, pid, answer))


def find(criu: str) -> Software:
    """What there is: as it was found by whom `begin` started, once; else it is looked for now."""
    import json

    global _devices
    while _begun:
        search = _begun.pop()
        with open(search.answer, "rb") as answer:
            data = answer.read()
        try:
            os.waitpid(search.pid, 0)
        except ChildProcessError:
            pass  # the reaper was quicker
        if data and search.criu == criu:
            versions, image_id, _devices = json.loads(data)
            return Software(versions, image_id)
    return look(criu)


def look(criu: str) -> Software:
    """Looks now. `criu`: its name or path."""
    from vernal_worker.supervisor import image  # here: as above

    asked = image.ask_criu(criu)  # it takes its time, and so do the files
    versions = image.installed_versions(("vllm", "torch"), sys.path) | {"python": sys.version.split()[0]}

    def all_versions() -> dict[str, str]:
        versions["criu"] = asked()
        return versions

    return Software(versions, image.fingerprint(all_versions))


def devices() -> "list[Device] | None":
    """The GPUs as NVML tells them, found out by whom `begin` started; None if nobody did, before `find`."""
    from vernal_worker.checkpoint.cuda.nvml import Device  # here: imports much

    return None if _devices is None else [Device(*fields) for fields in _devices]


def _ask_nvml() -> "Callable[[], list[tuple[str, int, str]] | None]":
    """Begin to ask it for all GPUs of this container; the answer waits for it. None: it cannot be asked."""
    import threading

    from vernal_worker.checkpoint.gpu import gpus

    found: list[tuple[str, int, str]] | None = None

    def ask() -> None:
        nonlocal found
        from vernal_worker.checkpoint.cuda import nvml

        uuids = gpus().uuids
        every = nvml.devices(uuids) if uuids else []
        found = [(device.name, device.bytes, device.capability) for device in every]

    thread = threading.Thread(target=ask)
    thread.start()

    def answer() -> list[tuple[str, int, str]] | None:
        thread.join()
        return found

    return answer
