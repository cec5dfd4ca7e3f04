"""Where objects are, below the bucket's prefix."""

import re
from dataclasses import dataclass

from vernal_worker.store import layout
from vernal_worker.store.fs import unique

ARTIFACTS, PIECES, CLOCK = "artifacts", "pieces", "clock"
LEASES, FAILURES, USERS, CONTENTS = "leases", "failures", "users", "contents"
_DIGITS = 8
_RETIRED = ".retired"
_MANIFEST = ".json"
_CURRENT = "current"
_PLACE = re.compile(rf"{ARTIFACTS}/([0-9a-f]{{64}})/([0-9a-f]{{{layout.HOST_DIGITS}}})/([^/]+)")
_PIECE = re.compile(rf"{PIECES}/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})\.([0-9a-f]{{8}})")


@dataclass(frozen=True, order=True)
class Place:
    """Of the artifacts of an identity for a host tuple, of whose digest the first `HOST_DIGITS` count."""

    identity: str
    host: str

    @classmethod
    def of(cls, identity: str, host: str) -> "Place":
        """Raises:
        ValueError: one is not a digest.
        """
        if not layout.is_digest(identity) or not layout.is_digest(host):
            raise ValueError(f"not an identity and a host tuple (64 hex digits each): {identity!r}, {host!r}")
        return cls(identity, host[: layout.HOST_DIGITS])

    @property
    def prefix(self) -> str:
        return f"{ARTIFACTS}/{self.identity}/{self.host}"

    @property
    def current(self) -> str:
        return f"{self.prefix}/{_CURRENT}"

    @property
    def lease(self) -> str:
        return f"{LEASES}/{self.identity}-{self.host}"

    @property
    def quarantine(self) -> str:
        return f"{FAILURES}/{self.identity}/{self.host}/quarantine.json"

    @property
    def users(self) -> str:
        """What the marks of all who use it are below."""
        return f"{USERS}/{self.identity}/{self.host}"

    def failures(self, generation: str) -> str:
        """What the failed thaws of a generation are below."""
        return f"{FAILURES}/{self.identity}/{self.host}/{generation}"

    def manifest(self, publication: str) -> str:
        return f"{self.prefix}/{publication}{_MANIFEST}"

    def retired(self, publication: str) -> str:
        return f"{self.prefix}/{publication}{_RETIRED}"


@dataclass(frozen=True)
class Named:
    """What the name of an object below `ARTIFACTS` says. `publication` is empty for the pointer."""

    place: Place
    publication: str = ""
    retired: bool = False

    @property
    def current(self) -> bool:
        return not self.publication


def read(key: str) -> Named | None:
    """None for what is not ours."""
    found = _PLACE.fullmatch(key)
    if found is None:
        return None
    place, name = Place(found[1], found[2]), found[3]
    if name == _CURRENT:
        return Named(place)
    for suffix in (_MANIFEST, _RETIRED):
        publication = name.removesuffix(suffix)
        if publication != name and generation_of(publication):
            return Named(place, publication, suffix == _RETIRED)
    return None


def new_token() -> str:
    """Part of what one attempt to publish writes: nobody else ever writes an object of that name, so that one that is
    about to be deleted is never written anew."""
    return unique()[:_DIGITS]


def publication(generation: str, token: str) -> str:
    return f"{generation}.{token}"


def generation_of(publication: str) -> str:
    """Empty if it is none."""
    generation, _, token = publication.partition(".")
    ours = layout.is_generation(generation) and re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", token)
    return generation if ours else ""


@dataclass(frozen=True)
class Piece:
    """What the name of an object below `PIECES` says: its BLAKE3, and who uploaded it."""

    digest: str
    token: str


def piece(digest: str, token: str) -> str:
    """Spread over prefixes, by which S3 divides its load."""
    return f"{PIECES}/{digest[:2]}/{digest}.{token}"


def read_piece(key: str) -> Piece | None:
    """None for what is not ours."""
    found = _PIECE.fullmatch(key)
    return Piece(found[2], found[3]) if found else None
