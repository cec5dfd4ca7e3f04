"""Emulators of Azure Blob Storage and Google Cloud Storage, on loopback for as long as a test runs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import shutil
import subprocess
import urllib.request
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Self

from cluster.programs import Programs
from common.cache import cache_dir, made_once
from common.ports import free_port
from common.tools import ToolError, run
from images.tools import content_key
from patience import until

from object_store.gcs_writes import GcsWrites
from object_store.server import answers

_LOOPBACK = "127.0.0.1"
_AZURITE = Path(__file__).parent / "azurite"
_GCS = Programs(
    name="gcs",
    sources=Path(__file__).parent / "gcs",
    targets={"fake-gcs-server": ("go.mod", "github.com/fsouza/fake-gcs-server")},
    takes="about a minute on 2 cores the first time",
)
_ACCOUNT = "devstoreaccount1"  # Azurite's own, which its documentation prints with its key
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def azurite() -> str:
    """Azurite's program for blobs, installed to the cache first if it is not there; it needs Node on the PATH.

    Raises:
        ToolError: there is no npm, or no network.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ToolError("Azurite needs Node 20 or newer, with npm, on the PATH.")

    def make(directory: Path) -> None:
        directory.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_AZURITE / name, directory)
        options = ("--ignore-scripts", "--no-audit", "--no-fund")
        run([npm, "ci", *options, "--prefix", str(directory)], "Check the network and `npm config get registry`.")

    directory = cache_dir() / f"azurite-{content_key(_AZURITE.iterdir())[:12]}"
    return str(made_once(directory, "Azurite from npm, to the cache (30 s)", make) / "node_modules/.bin/azurite-blob")


class Emulator(ABC):
    """Use as a context manager. `directory` gets its data and its log.

    Attributes:
        environment: what a client needs beside the URL and the endpoint.
    """

    environment: ClassVar[dict[str, str]]

    def __init__(self, directory: Path) -> None:
        self._directory, self._log = directory, directory / "emulator.log"
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    @abstractmethod
    def endpoint(self) -> str: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def make_bucket(self) -> str:
        """The URL of a new one."""

    def __enter__(self) -> Self:
        self.port = free_port(_LOOPBACK)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, cwd=self._directory)
        until("the emulator to answer", lambda: answers(_LOOPBACK, self.port), more=self._log.read_text)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


class Azure(Emulator):
    environment: ClassVar = {"AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": _KEY}

    @property
    def endpoint(self) -> str:
        return f"http://{_LOOPBACK}:{self.port}/{_ACCOUNT}"

    def make_bucket(self) -> str:
        name = f"bucket-{next(self._numbers)}"
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = {"x-ms-date": date, "x-ms-version": "2023-11-03"}
        given = "\n".join(f"{key}:{value}" for key, value in sorted(headers.items()))
        text = "PUT" + "\n" * 12 + f"{given}\n/{_ACCOUNT}/{_ACCOUNT}/{name}\nrestype:container"  # as it is to be signed
        signed = hmac.digest(base64.b64decode(_KEY), text.encode(), hashlib.sha256)
        headers |= {"Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(signed).decode()}", "Content-Length": "0"}
        url = f"{self.endpoint}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()
        return f"az://{name}"

    def _command(self) -> list[str]:
        return [azurite(), "--blobHost", _LOOPBACK, "--blobPort", str(self.port), "--location", str(self._directory),
                "--skipApiVersionCheck", "--disableTelemetry", "--silent"]  # fmt: skip


class Gcs(Emulator):
    environment: ClassVar = {"GOOGLE_BEARER_TOKEN": "any"}

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._writes: GcsWrites | None = None

    @property
    def endpoint(self) -> str:
        assert self._writes is not None
        return self._writes.url

    def make_bucket(self) -> str:
        name = f"bucket-{next(self._numbers)}"
        request = urllib.request.Request(
            f"http://{_LOOPBACK}:{self.port}/storage/v1/b",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()
        return f"gs://{name}"

    def __enter__(self) -> Self:
        super().__enter__()
        self._writes = GcsWrites(self.port)
        self._writes.__enter__()
        return self

    def __exit__(self, *of: object) -> None:
        assert self._writes is not None
        self._writes.__exit__(*of)
        super().__exit__(*of)

    def _command(self) -> list[str]:
        return [_GCS.ensure()["fake-gcs-server"], "-scheme", "http", "-host", _LOOPBACK, "-port", str(self.port),
                "-public-host", f"{_LOOPBACK}:{self.port}", "-backend", "memory"]  # fmt: skip
