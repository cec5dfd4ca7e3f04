"""Runs versitygw over a directory: how it is started, and one on loopback for as long as a test runs."""

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from common.ports import free_port
from common.tools import ToolError
from patience import until

from object_store import PROGRAMS

REGION = "us-east-1"
_LOOPBACK = "127.0.0.1"
# Of a server on loopback that lives for one test run.
_KEYS = {"AWS_ACCESS_KEY_ID": "vernal", "AWS_SECRET_ACCESS_KEY": "vernal-secret"}


def program() -> str:
    """The path of versitygw: the one that VERNAL_VERSITYGW names, for machines without Go, or one from the cache, which
    is built first if it is not there.

    Raises: ToolError, ClusterError.
    """
    if named := os.environ.get("VERNAL_VERSITYGW"):
        if (found := shutil.which(named)) is None:
            raise ToolError(f"VERNAL_VERSITYGW={named} is no program that can be run.")
        return found
    return PROGRAMS.ensure()["versitygw"]


def command(address: str, port: int, buckets: Path) -> list[str]:
    """A server whose buckets are the folders in `buckets`. Raises as `program`."""
    return [program(), "--region", REGION, "--port", f"{address}:{port}", "--quiet",
            "posix", str(buckets)]  # fmt: skip


def variables(keys: Mapping[str, str], home: Path) -> dict[str, str]:
    """What a server needs of the environment: the one pair of keys that it takes, as a client has them."""
    return {
        "ROOT_ACCESS_KEY": keys["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": keys["AWS_SECRET_ACCESS_KEY"],
        "HOME": str(home),
    }  # fmt: skip


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


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
        return f"http://{_LOOPBACK}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs beside the URL."""
        return _KEYS | {"AWS_REGION": REGION}

    def make_bucket(self) -> str:
        """Its name. A folder is a bucket, for this server."""
        name = f"bucket-{next(self._numbers)}"
        (self._root / name).mkdir()
        return name

    def folder(self, bucket: str) -> Path:
        """Where a bucket's objects are, each a file."""
        return self._root / bucket

    def __enter__(self) -> Self:
        self._root.mkdir()
        self.port = free_port(_LOOPBACK)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command(_LOOPBACK, self.port, self._root),
                stdout=log, stderr=log, env=os.environ | variables(_KEYS, self.directory),
            )  # fmt: skip
        until("the S3 server to answer", self._answers, more=self._log.read_text)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        return answers(_LOOPBACK, self.port)
