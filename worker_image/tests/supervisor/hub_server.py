"""A small Hugging Face hub: `python hub_server.py PORT DIRECTORY TOKEN`.

Serves DIRECTORY/NAME as repository NAME with one commit, to whoever shows TOKEN, by the routes that huggingface_hub
uses. Branch `main` is the commit in DIRECTORY/NAME/.commit.
"""

import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub(ThreadingHTTPServer):
    def __init__(self, port: int, directory: Path, token: str) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.directory, self.token = directory, token
        self.asked: list[str] = []
        self.gate = threading.Event()  # without it no file is given
        self.gate.set()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._say(401, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        path = self.path.partition("?")[0]
        if tree := re.fullmatch(r"/api/models/(.+?)/tree/[^/]+", path):
            return self._say(200, self._list(self.server.directory / tree[1]))
        if api := re.fullmatch(r"/api/models/(.+?)(/revision/([^/]+))?", path):
            return self._describe(self.server.directory / api[1], api[3] or "main")
        if file := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            return self._file(self.server.directory / file[1], file[3])
        return self._say(404, {"error": path})

    def _describe(self, repository: Path, revision: str) -> None:
        if not repository.is_dir() or revision not in ("main", self._commit(repository)):
            return self._say(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        names = sorted(file.name for file in repository.iterdir() if not file.name.startswith("."))
        answer = {"id": repository.name, "modelId": repository.name, "sha": self._commit(repository)}
        return self._say(200, {**answer, "siblings": [{"rfilename": name} for name in names]})

    def _list(self, repository: Path) -> list[dict[str, Any]]:
        files = sorted(file for file in repository.iterdir() if not file.name.startswith("."))
        return [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]

    def _file(self, repository: Path, name: str) -> None:
        self.server.gate.wait()
        try:
            data = (repository / name).read_bytes()
        except FileNotFoundError:
            return self._say(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self._commit(repository)})
        etag = hashlib.sha256(data).hexdigest()
        return self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": self._commit(repository)})

    def _commit(self, repository: Path) -> str:
        return (repository / ".commit").read_text()

    def _say(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Hub(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).serve_forever()
