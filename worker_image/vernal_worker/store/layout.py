"""Where things are under the store's root."""

import errno
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from vernal_contract.identity import HostTuple, IdentityInputs, digest

from vernal_worker.store.fs import unique

ARTIFACTS, STAGING, LEASES, BLOBS, CONTENTS = "artifacts", "staging", "leases", "blobs", "contents"
CURRENT, FAILURES, RETIRED, READERS, USERS = "current", "failures", "retired", "readers", "users"

HOST_DIGITS = 16
"""How much of a host tuple's digest is in names."""

_GENERATION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[0-9a-f]{16}")
_UNIQUE = re.compile(r"[0-9a-f]{32}")


class Key(msgspec.Struct, frozen=True):
    """What an artifact is looked up by, and its directory."""

    root: Path
    identity: str
    host: str  # digest, of which the first `HOST_DIGITS` count

    @classmethod
    def of(cls, root: Path, identity: IdentityInputs, host: HostTuple) -> "Key":
        return cls(root, digest(identity), digest(host))

    @property
    def directory(self) -> Path:
        return identity_directory(self.root, self.identity) / self.host[:HOST_DIGITS]

    @property
    def current(self) -> Path:
        return self.directory / CURRENT

    @property
    def lease(self) -> Path:
        return self.root / LEASES / f"{self.identity}-{self.host[:HOST_DIGITS]}"

    def failures(self, generation: str) -> Path:
        return self.directory / FAILURES / generation


def identity_directory(root: Path, identity: str) -> Path:
    """Raises:
    ValueError: `identity` is not a digest.
    """
    if not _DIGEST.fullmatch(identity):
        raise ValueError(f"not an artifact identity (64 hex digits): {identity!r}")
    return root / ARTIFACTS / identity


def new_generation() -> str:
    """A name that is unique, and sorts by time for people (no decision depends on the clock in it)."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{unique()[:8]}"


def is_generation(name: str) -> bool:
    return _GENERATION.fullmatch(name) is not None


def is_unique(name: str) -> bool:
    """Whether it may be a name that `fs.unique` made."""
    return _UNIQUE.fullmatch(name) is not None


def is_digest(name: str) -> bool:
    return _DIGEST.fullmatch(name) is not None


def key_directories(root: Path, identity: str = "", host: str = "") -> list[Path]:
    """Those of an identity and a host tuple (whole digest), or of all. Directories with other names are not ours.

    Raises:
        ValueError: one is not a digest.
        OSError: the storage cannot be read.
    """
    if identity:
        identity_directory(root, identity)
    if host and not _DIGEST.fullmatch(host):
        raise ValueError(f"not a host tuple (64 hex digits): {host!r}")
    artifacts = root / ARTIFACTS
    below = [artifacts / name for name in ([identity] if identity else names(artifacts)) if _DIGEST.fullmatch(name)]
    found = [directory / name for directory in below for name in names(directory) if _HOST.fullmatch(name)]
    return sorted(p for p in found if (not host or p.name == host[:HOST_DIGITS]) and p.is_dir())


def names(directory: Path) -> list[str]:
    """Of what is in it; of nothing, nothing. `Path.glob` says that also of what may not be read."""
    try:
        return [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def pointer(key_directory: Path) -> str | None:
    """The name of the current generation, or None if there is no pointer, or one that leads to something else."""
    try:
        name = (key_directory / CURRENT).readlink().name
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None  # it is no link
    return name if is_generation(name) else None
