"""The objects of one bucket below one prefix: what `obstore` does, in this project's errors."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import from_url
from vernal_contract.reasons import Reason

from vernal_worker.bucket import keys
from vernal_worker.bucket.credentials import provider
from vernal_worker.store.errors import StoreError
from vernal_worker.store.fs import unique

RETRY_SECONDS = 60.0
"""How long a call is tried again after what passes: 5xx, SlowDown, a connection that broke."""

_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 30.0
_WHOLE_SECONDS = 600.0
_STREAM = 1 << 20
_ENDPOINTS = {"s3": "endpoint", "az": "endpoint", "gs": "base_url"}
"""What obstore calls it, by a URL's scheme."""


@dataclass(frozen=True)
class Found:
    """An object in a list. `modified`: seconds since the epoch, by the bucket's clock."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True)
class Read:
    """A small object's content, by which version it is known, and when it was written, in seconds since the epoch by
    the bucket's clock."""

    data: bytes
    version: dict[str, str]
    modified: float = 0.0


class Objects:
    """Thread-safe. Every call ends: silence for half a minute is an error, and what passes is tried for a minute.

    Args:
        url: `s3://bucket/prefix`, `gs://…`, `az://…`; `memory:///` and `file:///…` for trials.
        endpoint: of a server that is not AWS, Google Cloud or Azure; default, for S3: AWS_ENDPOINT_URL.
        region: default: AWS_REGION.
        retry_seconds: how long what may pass is tried again; 0 for not at all.
        credentials: of S3, `credentials.KEYS` by name. Without, credentials are the environment's (AWS_ACCESS_KEY_ID,
            AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; web identity; instance roles; and what GCS and Azure have of the
            kind).

    Raises:
        ValueError: the URL is none, or of a store that is not known, or half of the credentials is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        retry_seconds: float = RETRY_SECONDS,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        options: dict[str, Any] = {}
        if endpoint and (name := _ENDPOINTS.get(url.partition(":")[0])):
            options[name] = endpoint
        if url.startswith("s3:"):
            if region:
                options["region"] = region
            if credentials:
                options["credential_provider"] = provider(credentials)
        spoken_to = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        if not url.startswith(("file:", "memory:")):
            options["client_options"] = {
                "allow_http": spoken_to.startswith("http:"),
                "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
                "read_timeout": timedelta(seconds=_SILENT_SECONDS),
                "timeout": timedelta(seconds=_WHOLE_SECONDS),
            }
            options["retry_config"] = {
                "retry_timeout": timedelta(seconds=retry_seconds),
                "max_retries": 100 if retry_seconds else 0,  # the time is the bound
            }
        try:
            self._store = from_url(url, **options)
        except (exceptions.BaseError, ValueError) as error:
            raise ValueError(f"{url!r} is no bucket, as s3://BUCKET/PREFIX is: {_said(error)}") from error

    def get(self, key: str, stage: str) -> Read | None:
        """A small object; None if there is none. Raises: StoreError."""
        with self._told(stage, key):
            try:
                found = obstore.get(self._store, key)
                version = {"e_tag": found.meta["e_tag"], "version": found.meta["version"]}
                known = {name: value for name, value in version.items() if value}
                return Read(bytes(found.bytes()), known, float(found.meta["last_modified"].timestamp()))
            except (exceptions.NotFoundError, FileNotFoundError):
                return None

    def stream(self, key: str, stage: str) -> Iterator[memoryview] | None:
        """An object's content, a mebibyte or so at a time; None if there is none. Raises: StoreError, also later."""
        with self._told(stage, key):
            try:
                found = obstore.get(self._store, key)
            except (exceptions.NotFoundError, FileNotFoundError):
                return None

        def parts() -> Iterator[memoryview]:
            with self._told(stage, key):
                for part in found.stream(min_chunk_size=_STREAM):
                    yield memoryview(part)

        return parts()

    def head(self, key: str, stage: str) -> Found | None:
        """None if there is none. Raises: StoreError."""
        with self._told(stage, key):
            try:
                return _found(obstore.head(self._store, key))
            except (exceptions.NotFoundError, FileNotFoundError):
                return None

    def put(self, key: str, data: bytes | bytearray, stage: str) -> None:
        """Write an object whole, whatever was there. Raises: StoreError."""
        with self._told(stage, key):
            obstore.put(self._store, key, data, use_multipart=False)

    def swap(self, key: str, data: bytes, before: Read | None, stage: str) -> bool:
        """Write an object if it is still `before`, or, with None, if there is none; whether it was.

        `data` must be like no other: when an answer is lost and the call repeated, the second one is refused because of
        the first, and only what is there tells.

        Raises: StoreError.
        """
        mode: Any = "create" if before is None else before.version
        with self._told(stage, key):
            try:
                obstore.put(self._store, key, data, mode=mode)
                return True
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError, exceptions.NotFoundError):
                pass
        there = self.get(key, stage)
        return there is not None and there.data == data

    def list(self, prefix: str, stage: str) -> list[Found]:
        """Every object below `prefix`. Raises: StoreError."""
        with self._told(stage, prefix):
            return [_found(meta) for page in obstore.list(self._store, prefix) for meta in page]

    def delete(self, wanted: Sequence[str], stage: str) -> None:
        """As far as they are there. Raises: StoreError."""
        if not wanted:
            return
        with self._told(stage, wanted[0]):
            try:
                obstore.delete(self._store, list(wanted))
            except (exceptions.NotFoundError, FileNotFoundError):
                if len(wanted) > 1:  # one that is gone ended it: the rest by themselves
                    for key in wanted:
                        self.delete([key], stage)

    def now(self, stage: str) -> float:
        """What time it is by the bucket's clock. Raises: StoreError."""
        key = f"{keys.CLOCK}/{unique()}"
        self.put(key, b"", stage)
        found = self.head(key, stage)
        self.delete([key], stage)
        if found is None:
            raise StoreError(
                Reason.OBJECT_STORE_UNAVAILABLE, stage, f"{self.url}/{key}: it was written and is not there"
            )
        return found.modified

    @contextmanager
    def _told(self, stage: str, key: str) -> Iterator[None]:
        where = f"{self.url}/{key}"
        try:
            yield
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            message = f"{where}: {_said(error)}; the credentials must allow to get, put, list and delete objects"
            raise StoreError(Reason.OBJECT_STORE_UNAVAILABLE, stage, message) from error
        except (exceptions.BaseError, OSError) as error:
            raise StoreError(Reason.OBJECT_STORE_UNAVAILABLE, stage, f"{where}: {_said(error)}") from error


def _found(meta: Any) -> Found:
    return Found(str(meta["path"]), int(meta["size"]), float(meta["last_modified"].timestamp()))


_NOISE = re.compile(r"\s+")


def _said(error: Exception) -> str:
    """The first sentence: what follows it is the library's own chain of errors, for who debugs it."""
    text = str(error).split("\n\nDebug source", 1)[0]
    return _NOISE.sub(" ", text).strip()[:500] or type(error).__name__
