"""Between obstore, which writes by Google's XML API, and fake-gcs-server, which takes writes by the JSON API alone.

It says a PUT, and the generation on which it depends, in the other API's words, and the answer in the first one's.
Whether an object is still of that generation is the emulator's to say.
"""

from __future__ import annotations

import http.client
import http.server
import json
import urllib.parse

from common.loopback import LoopbackServer
from patience import GUARD_SECONDS

_CONDITION = "x-goog-if-generation-match"
_HOP = frozenset({"connection", "content-length", "date", "server", "transfer-encoding"})


class GcsWrites(LoopbackServer):
    """Use as a context manager: `url` is what a client of the XML API speaks to. `port`: of fake-gcs-server."""

    def __init__(self, port: int) -> None:
        self._port = port
        super().__init__(self._handler(), "gcs-writes")

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        port = self._port

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer waits 40 ms for the client to acknowledge its head

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                method, path = self.command, self.path
                if writes := method == "PUT":
                    method, path = "POST", _upload(path, self.headers.get(_CONDITION))
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_SECONDS)
                try:
                    headers = {"Content-Type": self.headers.get("Content-Type") or "application/octet-stream"}
                    connection.request(method, path, body, headers | {"Host": f"127.0.0.1:{port}"})
                    answer = connection.getresponse()
                    data = answer.read()
                    given = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
                    length = answer.getheader("Content-Length")
                finally:
                    connection.close()
                if writes and answer.status == http.client.OK:
                    told = json.loads(data)
                    given, data, length = {"ETag": told["etag"], "x-goog-generation": told["generation"]}, b"", "0"
                self.send_response(answer.status)
                for name, value in given.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _upload(path: str, generation: str | None) -> str:
    bucket, _, name = urllib.parse.urlsplit(path).path.lstrip("/").partition("/")
    query = {"uploadType": "media", "name": urllib.parse.unquote(name)}
    if generation is not None:
        query["ifGenerationMatch"] = generation
    return f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"
