"""An HTTP server on loopback for as long as a `with` statement."""

from __future__ import annotations

import http.server
import threading
from typing import Self

from patience import GUARD_SECONDS


class LoopbackServer:
    """Answers each request on a thread of its own. `name`: of the one that accepts them."""

    def __init__(self, handler: type[http.server.BaseHTTPRequestHandler], name: str) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name=name)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(GUARD_SECONDS)
