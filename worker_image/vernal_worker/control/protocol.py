"""Messages on the engine's control socket.

The socket is a Unix stream socket in a directory that only the worker's user may enter. A connection carries
one command: the client sends one line of JSON, with file descriptors attached (SCM_RIGHTS) where a command
takes any; the server answers with one line of JSON and closes. So there is no connection while nothing is
asked, which is what a freeze needs, and nothing to resume after a thaw.

Times are durations in seconds: the engine's monotonic clock stops while it is frozen, so an instant of the
supervisor's clock means nothing to it.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec
from vernal_contract import decoding
from vernal_contract.config import MAX_BODY_BYTES

SOCKET_NAME = "engine.sock"
"""The socket's name in the run directory (`vernal_contract.names.PATH_RUN`)."""

MAX_MESSAGE_BYTES = 64 << 20
"""A longer message, of either side, is a bug or not from us; the longest real one is the engine's metrics."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class EngineSpec(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to start the engine. It travels in the engine's argument vector and so into the checkpoint: it must
    name no pod and hold no secret."""

    socket: str  # path that the control socket is bound to
    model: str  # a path, or a name for vLLM to fetch
    served_model_names: tuple[str, ...]
    serve_arguments: tuple[str, ...] = ()  # options in the form that `vllm serve` takes on its command line
    sleep_mode: bool = False  # GPU memory can be dropped before a freeze and come back afterwards


class PodIdentity(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pod the engine is in now; not known before the thaw."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    ip: str = ""
    node: str = ""


class Serving(StrEnum):
    """What the engine's HTTP side does."""

    CLOSED = "Closed"  # never listened yet
    OPEN = "Open"
    LEAVING = "Leaving"  # accepts, but says on /health that it is about to go
    DRAINING = "Draining"  # listener closed; new requests on open connections are refused
    ABORTED = "Aborted"  # what was left was ended


# --- commands ---


class Command(_Message, frozen=True, tag_field="command", forbid_unknown_fields=True):
    pass


class GetStatus(Command, frozen=True, kw_only=True, tag="status"):
    """Answered by `EngineStatus`. The socket exists from the moment that the model is loaded, so an answer of
    any kind says that the engine is up."""


class RunCanary(Command, frozen=True, kw_only=True, tag="canary"):
    """Generate greedily for fixed prompts. Answered by `Canary`."""


class WarmUp(Command, frozen=True, kw_only=True, tag="warm_up"):
    """Ask for one answer of each kind that compiles or loads something the first time. Before `Quiesce`. Answered by
    `Warmed`, whatever became of it."""

    seconds: float  # give up after so long


class StoreWeights(Command, frozen=True, kw_only=True, tag="store_weights"):
    """Write the weights to files, for a `Quiesce` that follows. Changes nothing of the engine. Answered by `Stored`.
    Refused once the engine has listened."""

    directory: str
    piece: int  # bytes that one digest stands for


class Weights(StrEnum):
    """What becomes of the weights while the engine has no GPU memory."""

    IN_FILES = "InFiles"  # dropped: `StoreWeights` has written them
    IN_HOST_MEMORY = "InHostMemory"  # of the engine's processes, and so in the image


class Quiesce(Command, frozen=True, kw_only=True, tag="quiesce"):
    """Make the tree fit to be frozen: nothing in flight, caches dropped, free memory handed back to the
    kernel, GPU memory let go of. Answered by `Done`. Refused once the engine has listened. An engine of which this was
    not answered is of no use any more: how far it came is not known."""

    weights: Weights = Weights.IN_HOST_MEMORY


class FromHelper(_Message, frozen=True, kw_only=True, tag="helper", forbid_unknown_fields=True):
    """GPU memory, with the weights in it, comes from the CUDA helper."""

    socket: str  # where each worker fetches its memory


class FromHostMemory(_Message, frozen=True, kw_only=True, tag="host", forbid_unknown_fields=True):
    """Each worker makes its GPU memory itself; the weights are in its own host memory."""


class Wake(Command, frozen=True, kw_only=True, tag="wake"):
    """Take GPU memory back after `Quiesce`, in the thawed engine as in the frozen one. Answered by `Done`. Refused if
    the weights are not there."""

    source: FromHelper | FromHostMemory = FromHostMemory()


class Resume(Command, frozen=True, kw_only=True, tag="resume"):
    """Become the engine of this pod: told after every start, cold or thawed, before `Listen`. Answered by
    `Done`."""

    pod: PodIdentity
    secrets: dict[str, str] = {}  # environment variables that must not be in a checkpoint


class Listen(Command, frozen=True, kw_only=True, tag="listen"):
    """Serve HTTP on the listening TCP socket that comes along as the only file descriptor. Answered by
    `Done`."""

    keep_alive: float = 120.0  # seconds that a connection without a request is kept
    body_bytes: int = MAX_BODY_BYTES  # of one request


class Leave(Command, frozen=True, kw_only=True, tag="leave"):
    """Go on accepting, but answer /health with 503, for balancers that ask there. Told again when the time that is
    left has become shorter. Answered by `Done`."""

    seconds_left: float  # until requests in flight are aborted


class StopListening(Command, frozen=True, kw_only=True, tag="stop_listening"):
    """Close the listener; requests in flight go on. Answered by `Done`."""


class AbortAll(Command, frozen=True, kw_only=True, tag="abort_all"):
    """End every request in flight with an error in its own format. Answered by `Aborted`."""

    seconds: float  # for clients to take the error; the connections of those that do not are reset


class OpenApi(Command, frozen=True, kw_only=True, tag="open_api"):
    """Serve the Python API (`vernal_worker.engine.wire`) on a ZMQ ROUTER socket that is made at `path`, in a directory
    that only the program may enter. Answered by `Done`."""

    path: str


class CloseApi(Command, frozen=True, kw_only=True, tag="close_api"):
    """End what is left of the Python API's requests, and close its socket. Answered by `Done`, also when none is
    open."""


class GetMetrics(Command, frozen=True, kw_only=True, tag="metrics"):
    """vLLM's own metrics. Answered by `Metrics`."""


class Shutdown(Command, frozen=True, kw_only=True, tag="shutdown"):
    """Stop HTTP, vLLM and its processes, then exit with 0. Answered by `Done` before it begins."""

    timeout: float


AnyCommand = (
    GetStatus
    | RunCanary
    | WarmUp
    | StoreWeights
    | Quiesce
    | Wake
    | Resume
    | Listen
    | Leave
    | StopListening
    | AbortAll
    | OpenApi
    | CloseApi
    | GetMetrics
    | Shutdown
)

# --- answers ---


class Answer(_Message, frozen=True, tag_field="answer"):
    pass


class Load(_Message, frozen=True, kw_only=True):
    """As `vernal_contract.state.Load`, by the engine's own word."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    pressure: float = 0.0
    idle_seconds: float = 0.0
    generated_tokens: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0


class EngineStatus(Answer, frozen=True, kw_only=True, tag="status"):
    serving: Serving
    in_flight: int  # requests whose last byte has not been handed to the kernel
    accepted_total: int
    errored: str | None = None  # why vLLM cannot serve any more
    load: Load = Load()
    unfreezable: str | None = None  # why it cannot be frozen, if its arguments do not say so already


class Canary(Answer, frozen=True, kw_only=True, tag="canary", forbid_unknown_fields=True):
    """Prompts and greedy answers, as token ids; or, of a model that does not generate, its task's values. Equal, or
    nearly so, whenever the engine computes the same thing."""

    prompts: list[list[int]]
    answers: list[list[int]] = []
    vectors: list[list[float]] = []  # embeddings, scores of classes
    margins: list[list[float]] = []
    """By how much each token's log probability was above the next best one's; empty if the engine does not tell."""


class Warmed(Answer, frozen=True, kw_only=True, tag="warmed"):
    seconds: dict[str, float]  # that the first of each kind took


class StoredRank(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """GPU memory of one worker process that was written to files."""

    file: str  # what their names begin with
    segments: list[tuple[str, int]]  # tag and size of each allocation, by address; of some the content is in the files
    digests: list[str]  # BLAKE3 of the content's pieces, in hex


class Stored(Answer, frozen=True, kw_only=True, tag="stored"):
    ranks: list[StoredRank]  # in the order of vLLM's ranks


class Aborted(Answer, frozen=True, kw_only=True, tag="aborted"):
    requests: int
    reset: int = 0  # of these, whose clients did not read


class Metrics(Answer, frozen=True, kw_only=True, tag="metrics"):
    text: str  # Prometheus text format 0.0.4


class Done(Answer, frozen=True, kw_only=True, tag="done"):
    pass


class Failed(Answer, frozen=True, kw_only=True, tag="failed"):
    """The command was understood and could not be carried out, or was not understood."""

    message: str


AnyAnswer = EngineStatus | Canary | Warmed | Stored | Aborted | Metrics | Done | Failed

_commands: Callable[[bytes], AnyCommand] = decoding.json_decoder(AnyCommand)
_answers: Callable[[bytes], AnyAnswer] = decoding.json_decoder(AnyAnswer)


def encode(message: Command | Answer) -> bytes:
    """One line: JSON and a newline (JSON text holds no raw newline)."""
    return msgspec.json.encode(message) + b"\n"


def decode_command(line: bytes) -> AnyCommand:
    """Raises: msgspec.DecodeError (or its subclass ValidationError): not a command of this protocol."""
    return _commands(line)


def decode_answer(line: bytes) -> AnyAnswer:
    """Raises: msgspec.DecodeError (or its subclass ValidationError): not an answer of this protocol."""
    return _answers(line)
