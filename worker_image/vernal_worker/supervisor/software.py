"""What software this container has, found out by a process beside this one.

To look at every file of vLLM and torch takes about as long as importing all that a thaw needs, and both wait for
nothing. Threads would take turns. Imports little, so that it can begin early.
"""

import os
import sys
from typing import NamedTuple

ENV_CRIU = "VERNAL_CRIU"
"""Where CRIU is, if it is not on the PATH."""


class Software(NamedTuple):
    """`image_id`: the digest of all of it."""

    versions: dict[str, str]
    image_id: str


class _Search(NamedTuple):
    """A process that writes a `Software` into a pipe."""

    criu: str
    pid: int
    answer: int


_begun: list[_Search] = []


def begin() -> None:
    """Begin to look. Must be called before any thread is started: what others hold stays locked in a forked process."""
    criu, (answer, result) = os.environ.get(ENV_CRIU) or "criu", os.pipe()
    if (pid := os.fork()) == 0:
        try:
            import json  # here, and below: what begins first waits for no import

            found = look(criu)
            os.write(result, json.dumps([found.versions, found.image_id]).encode())
        finally:
            os._exit(0)
    os.close(result)
    _begun.append(_Search(criu, pid, answer))


def find(criu: str) -> Software:
    """What there is: as it was found by whom `begin` started, once; else it is looked for now."""
    import json

    while _begun:
        search = _begun.pop()
        with open(search.answer, "rb") as answer:
            data = answer.read()
        try:
            os.waitpid(search.pid, 0)
        except ChildProcessError:
            pass  # the reaper was quicker
        if data and search.criu == criu:
            versions, image_id = json.loads(data)
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
