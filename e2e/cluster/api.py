"""The few requests to an API server that this package needs, with the standard library."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patience import GUARD_SECONDS

from cluster.errors import ClusterError

#: What a request raises while the server is not there or not ready; ValueError: the answer is no JSON.
NOT_YET = (OSError, ValueError)


class Api:
    """An API server seen as the administrator whose certificate is in `pki`."""

    def __init__(self, url: str, pki: Path) -> None:
        self._url = url
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def get(self, path: str, timeout: float = 60) -> Any:
        """The JSON at `path`. Raises OSError when there is no answer, or one with an error status."""
        with urllib.request.urlopen(self._url + path, timeout=timeout, context=self._tls) as answer:
            return json.load(answer)

    def ready(self, timeout: float = 60) -> bool:
        """Whether /readyz says ok."""
        try:
            with urllib.request.urlopen(self._url + "/readyz", timeout=timeout, context=self._tls) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def wait(what: str, condition: Callable[[], bool], check: Callable[[], None]) -> None:
    """Poll `condition` until it holds. `check` runs between polls and raises when waiting is pointless.

    Raises ClusterError naming `what` after `GUARD_SECONDS`.
    """
    deadline = time.monotonic() + GUARD_SECONDS
    pause = 0.05
    while not condition():
        check()
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not after {GUARD_SECONDS:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.2, 0.5)
