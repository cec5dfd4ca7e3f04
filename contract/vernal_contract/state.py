"""The schema of `GET /state` on a worker's admin port: what the operator, `kubectl` users and tests read."""

from enum import StrEnum
from typing import Annotated

import msgspec

from vernal_contract import decoding
from vernal_contract.identity import HostTuple, IdentityInputs

SCHEMA = 1


class _Word(StrEnum):
    """A word that a newer worker may have more of: those are read as `UNKNOWN`."""

    @classmethod
    def _missing_(cls, value: object) -> "_Word | None":
        return cls("Unknown") if isinstance(value, str) and value != "Unknown" else None


class Phase(_Word):
    """Where the supervisor's state machine is."""

    STARTING = "Starting"  # deciding, or a cold start in progress
    THAWING = "Thawing"
    FREEZING = "Freezing"
    READY = "Ready"
    DRAINING = "Draining"
    STOPPED = "Stopped"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class StartMode(_Word):
    COLD = "Cold"
    RESTORED = "Restored"
    UNKNOWN = "Unknown"


class FreezeOutcome(_Word):
    PUBLISHED = "Published"
    PUBLISHED_BY_OTHER = "PublishedByOther"  # lost the race: another worker's artifact is in the store
    FAILED = "Failed"
    SKIPPED = "Skipped"  # policy, host, or another worker holds the lease
    UNKNOWN = "Unknown"


Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=-1e10, le=1e10)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
"""Numbers that can be added to and written down: a worker runs other people's code."""


class _Base(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=False):
    pass


class ArtifactRef(_Base):
    """An artifact in the store."""

    identity: str
    generation: str
    host_tuple: str  # hex digest
    bytes: Count
    files: Count
    shared_bytes: Count = 0  # of files that another artifact has too, when this worker looked


class RestoreFailure(_Base):
    """One thaw that did not end in a ready worker."""

    generation: str
    stage: str  # find, match, verify, shm, criu, cuda, weights, resume, canary
    reason: str
    message: str


class FreezeReport(_Base):
    outcome: FreezeOutcome
    reason: str | None = None
    message: str = ""
    seconds: Seconds | None = None


class DrainReport(_Base):
    seconds_left: Seconds
    accepting: bool  # still inside propagationSeconds
    aborted: Count = 0


class Load(_Base):
    """How much a worker that serves has to do."""

    running: Count = 0  # requests that the engine works on
    waiting: Count = 0  # requests that the engine has not begun, for want of room
    kv_usage: Amount = 0.0  # part of the KV cache that is in use, 0 to 1
    pressure: Amount = 0.0  # requests in flight over what the engine can hold; above 1, some wait
    idle_seconds: Seconds = 0.0  # since the last request ended, or the worker began to serve; 0 while one is in flight
    generated_tokens: Count = 0  # since the worker began to serve
    first_tokens: Count = 0  # requests that got one since then
    first_token_seconds: Amount = 0.0  # that these waited for it, together


class CacheLookup(_Word):
    """What a node cache gave for a thaw."""

    HIT = "Hit"
    MISS = "Miss"  # not all of the checkpoint's files are there
    DAMAGED = "Damaged"  # it gave other bytes than the store's manifest says: they were left, and thrown away
    UNAVAILABLE = "Unavailable"  # it did not answer, cannot be written, or cannot be kept from the engine
    UNKNOWN = "Unknown"


class CacheFill(_Word):
    """What became of files that a node cache did not have."""

    FILLED = "Filled"
    FULL = "Full"  # no room for them, though everything that nobody reads would have gone
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class NodeCacheReport(_Base):
    """A worker and its node cache. Bytes are those of files."""

    tier: str = ""  # disk, memory
    lookup: CacheLookup | None = None  # None: nothing was looked for
    lookup_seconds: Amount = 0.0
    bytes: Count = 0  # that were thawed from it
    fill: CacheFill | None = None  # None: there was nothing to fill, or it goes on
    fill_seconds: Amount = 0.0
    filled_bytes: Count = 0
    evicted_bytes: Count = 0  # of files that made room
    message: str = ""  # what went wrong last
    told_at: Amount = 0.0  # when the last of it was told: seconds since the epoch, by the node's clock


class WorkerState(_Base, kw_only=True):
    """The whole answer. Durations in seconds, sizes in bytes. Unknown fields are ignored by readers, so that an
    operator can read a newer worker."""

    schema: int = SCHEMA
    pod: str
    namespace: str
    pool: str
    revision: str
    start_id: str = ""  # new with each start of process 1, so that none is counted twice; "" from an older worker
    phase: Phase
    ready: bool = False
    start_mode: StartMode | None = None
    start_reason: str | None = None  # reasons.Reason
    start_message: str = ""
    waiting_for: str = ""  # what the start waits for, if it does: e.g. GPU memory that another process holds
    identity: str | None = None  # hex digest of identity_inputs
    identity_inputs: IdentityInputs | None = None
    host_tuple: str | None = None  # hex digest of host
    host: HostTuple | None = None  # this worker's, or, once there is one, that of its artifact
    artifact: ArtifactRef | None = None  # restored from, or published
    freeze: FreezeReport | None = None
    restore_failures: list[RestoreFailure] = []
    timings: dict[str, Seconds] = {}  # phase name -> seconds, e.g. "verify", "criu", "canary", "total"
    begun: dict[str, Seconds] = {}  # the same phases -> from the start of process 1; empty from an older worker
    in_flight: Count = 0  # when the engine last answered
    accepted_total: Count = 0  # as well
    load: Load | None = None  # None until it serves, while its engine is silent, and from an older worker
    drain: DrainReport | None = None
    node_cache: NodeCacheReport | None = None  # None without one, and from an older worker
    last_error: str | None = None
    uptime: Seconds = 0.0


LONGEST_MESSAGE = 800
"""Characters of what a pod's last words (4096 bytes, by Kubernetes) have of a message."""


def encode_cache(report: NodeCacheReport) -> bytes:
    """The last words of a pod that has filled a node's cache, or has not."""
    return msgspec.json.encode(msgspec.structs.replace(report, message=report.message[:LONGEST_MESSAGE]))


def decode_cache(text: str) -> NodeCacheReport | None:
    """The same, read; None of a pod that could not say it."""
    try:
        return decoding.json(text.encode(), NodeCacheReport)
    except msgspec.DecodeError:
        return None


def encode(state: WorkerState) -> bytes:
    return msgspec.json.encode(state)


def decode(data: bytes) -> WorkerState:
    """Parse a worker's answer.

    Raises:
        msgspec.DecodeError: not JSON, or (ValidationError) not this schema; the message holds the field's path.
    """
    return decoding.json(data, WorkerState)
