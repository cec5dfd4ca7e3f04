"""Runs versitygw on loopback over a directory."""

import itertools
import os
import socket
import subprocess
from pathlib import Path
from typing import Self

from patience import until

from object_store import PROGRAMS

_KEY, _SECRET = "vernal", "vernal-secret"  # of a server on loopback that lives for one test run
_REGION = "us-east-1"


class S3Server:
    """Use as a context manager. `directory` gets its buckets, each a folder, and its log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._root = directory / "buckets"
        self._log = directory / "versitygw.log"
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs beside the URL."""
        return {"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET, "AWS_REGION": _REGION}

    def make_bucket(self) -> str:
        """Its name. A folder is a bucket, for this server."""
        name = f"bucket-{next(self._numbers)}"
        (self._root / name).mkdir()
        return name

    def folder(self, bucket: str) -> Path:
        """Where a bucket's objects are, each a file."""
        return self._root / bucket

    def __enter__(self) -> Self:
        program = PROGRAMS.ensure()["versitygw"]
        self._root.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        command = [program, "--access", _KEY, "--secret", _SECRET, "--region", _REGION,
                   "--port", f"127.0.0.1:{self.port}", "--quiet", "posix", str(self._root)]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"HOME": str(self.directory)}
            )
        until("the S3 server to answer", self._answers, more=self._log.read_text)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True
