"""What is believed of a worker's answer, and how much of it is kept.

A worker runs other people's code. What it says about itself is its own business; what it says about a checkpoint, which
it may share with other pools, is taken only if its identity is the digest of what it says it consists of (here), and if
that can be so (`observe.beliefs`). Nothing that is kept grows with what is sent.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from vernal_contract import decoding
from vernal_contract.state import ArtifactRef, FreezeReport, NodeCacheReport, RestoreFailure, WorkerState, decode

MAX_BYTES = 64 << 10
"""Of an answer. A worker's is a few thousand; each byte of JSON may become twenty in memory."""
LONGEST = 1000
"""Characters of a text that are kept."""
LONGEST_WORD = 128
"""Characters of a name or a reason: what an Event's reason may have."""
MOST = 20
"""Failures, and phases of timings, that are kept: the last ones, and the longest ones."""
_SHARED = 256
"""Identities and hosts that are kept once for all workers that have them."""


class _Parts(msgspec.Struct, rename="camel"):
    """What a digest is compared with, as it was sent: a newer worker's may hold more than is known here."""

    identity: str | None = None
    identity_inputs: Any = None
    host_tuple: str | None = None
    host: Any = None


_PARTS: Callable[[bytes], _Parts] = decoding.json_decoder(_Parts)


class Reader:
    """Reads answers. For one thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[type, str], Any] = OrderedDict()

    def read(self, data: bytes, doubt: Callable[[str], None]) -> WorkerState:
        """What is kept of an answer; `doubt` is told what is not believed.

        Raises:
            msgspec.DecodeError: it is none.
        """
        state, parts = decode(data), _PARTS(data)
        decoding.check_levels([parts.identity_inputs, parts.host], "identityInputs or host")
        for name, said, part in (
            ("identity", parts.identity, parts.identity_inputs),
            ("hostTuple", parts.host_tuple, parts.host),
        ):
            if said is not None and said != _digest(part):
                doubt(f"{name} is not the digest of what it names")
                return _trimmed(stranger(state))
        if state.artifact is not None and state.artifact.identity != state.identity:
            doubt("artifact.identity is not its identity")
            return _trimmed(stranger(state))
        if state.identity is not None:
            state.identity_inputs = self._shared(state.identity, state.identity_inputs)
        if state.host_tuple is not None:
            state.host = self._shared(state.host_tuple, state.host)
        return _trimmed(state)

    def _shared(self, digest: str, value: Any) -> Any:
        key = (type(value), digest)
        value = self._known.setdefault(key, value)
        self._known.move_to_end(key)
        if len(self._known) > _SHARED:
            self._known.popitem(last=False)
        return value


def _digest(part: Any) -> str:
    """As `vernal_contract.identity.digest`, of the object as it was sent."""
    return hashlib.sha256(msgspec.json.encode(part, order="sorted")).hexdigest()


def stranger(state: WorkerState) -> WorkerState:
    """The same worker, of which no checkpoint is known."""
    return msgspec.structs.replace(
        state, identity=None, identity_inputs=None, host_tuple=None, host=None, artifact=None, restore_failures=[]
    )


def _trimmed(state: WorkerState) -> WorkerState:
    longest = dict(sorted(state.timings.items(), key=lambda item: -item[1])[:MOST])
    artifact = state.artifact
    return msgspec.structs.replace(
        state,
        pod=_word(state.pod),
        namespace=_word(state.namespace),
        pool=_word(state.pool),
        revision=_word(state.revision),
        start_id=_word(state.start_id),
        start_reason=_word(state.start_reason),
        start_message=_short(state.start_message),
        waiting_for=_short(state.waiting_for),
        last_error=_short(state.last_error),
        artifact=None if artifact is None else _artifact(artifact),
        freeze=None if state.freeze is None else _freeze(state.freeze),
        node_cache=None if state.node_cache is None else _node_cache(state.node_cache),
        restore_failures=[_failure(failure) for failure in state.restore_failures[-MOST:]],
        timings={_word(name): seconds for name, seconds in longest.items()},
        begun={_word(name): at for name, at in state.begun.items() if name in longest},
    )


def _artifact(artifact: ArtifactRef) -> ArtifactRef:
    return msgspec.structs.replace(
        artifact, generation=_word(artifact.generation), host_tuple=_word(artifact.host_tuple)
    )


def _freeze(report: FreezeReport) -> FreezeReport:
    return msgspec.structs.replace(report, reason=_word(report.reason), message=_short(report.message))


def _node_cache(report: NodeCacheReport) -> NodeCacheReport:
    return msgspec.structs.replace(report, tier=_word(report.tier), message=_short(report.message))


def _failure(failure: RestoreFailure) -> RestoreFailure:
    return RestoreFailure(
        generation=_word(failure.generation),
        stage=_word(failure.stage),
        reason=_word(failure.reason),
        message=_short(failure.message),
    )


_Text = TypeVar("_Text", str, str | None)


def _short(text: _Text, longest: int = LONGEST) -> _Text:
    if text is None or len(text) <= longest:
        return text
    return f"{text[: longest - 3]}..."


def _word(text: _Text) -> _Text:
    return _short(text, LONGEST_WORD)
