"""The wire format of the Python API: messages between `vernal_worker.client` and `vernal_worker.engine.api`.

MessagePack over ZMQ, DEALER (program) to ROUTER (engine), over a Unix socket in a private directory. Requests are
multiplexed: each has a number, chosen by the program. Every message of the engine is one `Batch`: what happened
since the last one, of all requests together. Outputs of one request travel as differences to what was sent before
(`vernal_worker.client.outputs` puts them together).

Nothing here is pickled. `pack` and `unpack` know numbers, text, bytes, containers, arrays, tensors and their dtypes,
images, slices, and the classes of vLLM that `CLASSES` names; anything else is a TypeError at the sender and a
`msgspec.DecodeError` at the receiver.
"""

import dataclasses
import enum
import importlib
import logging
from collections import UserDict
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy
import PIL.Image
import torch
from vernal_contract import decoding

_logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
"""So often, at least, the engine sends a `Batch`."""

_exts: dict[type, int] = {tuple: 1, set: 2, frozenset: 3, dict: 4}
_OBJECT, _ENUM, _ARRAY, _TENSOR, _DTYPE, _IMAGE, _SLICE, _MAPPING = 16, 17, 18, 19, 20, 21, 22, 23

IMAGE_MODES = {
    "1": 1, "L": 8, "LA": 16, "RGB": 24, "RGBA": 32, "CMYK": 32, "YCbCr": 24, "HSV": 24, "I": 32, "F": 32, "I;16": 16
}  # fmt: skip
"""Bits of a pixel. Of Pillow's images, those that are their pixels and nothing else: no palette."""

CLASSES = (
    "vllm.config.kv_events.KVEventsConfig",
    "vllm.distributed.weight_transfer.base.WeightTransferInitRequest",
    "vllm.distributed.weight_transfer.base.WeightTransferUpdateRequest",
    "vllm.logprobs.FlatLogprobs",
    "vllm.logprobs.Logprob",
    "vllm.lora.request.LoRARequest",
    "vllm.multimodal.inputs.MultiModalBatchedField",
    "vllm.multimodal.inputs.MultiModalFieldElem",
    "vllm.multimodal.inputs.MultiModalFlatField",
    "vllm.multimodal.inputs.MultiModalKwargsItem",
    "vllm.multimodal.inputs.MultiModalKwargsItems",
    "vllm.multimodal.inputs.MultiModalSharedField",
    "vllm.multimodal.inputs.PlaceholderRange",
    "vllm.outputs.PoolingOutput",
    "vllm.outputs.RequestError",
    "vllm.outputs.SamplingMask",
    "vllm.outputs.WeightVersionSpan",
    "vllm.pooling_params.LateInteractionParams",
    "vllm.pooling_params.PoolingParams",
    "vllm.sampling_params.RepetitionDetectionParams",
    "vllm.sampling_params.RequestOutputKind",
    "vllm.sampling_params.SamplingParams",
    "vllm.sampling_params.StructuredOutputsParams",
    "vllm.v1.fault_tolerance.utils.FaultToleranceRequest",
    "vllm.v1.fault_tolerance.utils.FaultToleranceResult",
    "vllm.v1.kv_hints.KvHintsEnvelope",
    "vllm.v1.metrics.stats.RequestSpecDecodeMetrics",
    "vllm.v1.metrics.stats.RequestStateStats",
)
"""The only classes whose objects travel. A version of vLLM that lacks one cannot send it."""

FOUND_OUT = (
    "block_size",
    "effective_attention_block_size",
    "kv_cache_max_concurrency",
    "kv_cache_size_tokens",
    "mamba_block_size",
    "num_gpu_blocks",
)
"""Attributes of vLLM's CacheConfig that the engine sets when it has started, as far as the version has them."""

METHODS = frozenset(
    {
        "abort",
        "add_lora",
        "check_health",
        "checkpoint_prepare",
        "checkpoint_restore",
        "collective_rpc",
        "compute_weight_checksums",
        "do_log_stats",
        "finish_weight_update",
        "get_status",
        "get_supported_tasks",
        "get_weight_version",
        "handle_fault",
        "init_weight_transfer_engine",
        "is_paused",
        "is_sleeping",
        "is_tracing_enabled",
        "list_loras",
        "notify_kv_transfer_request_rejected",
        "pause_generation",
        "pin_lora",
        "release_kv_cache_memory",
        "remove_lora",
        "reset_encoder_cache",
        "reset_mm_cache",
        "reset_prefix_cache",
        "resume_generation",
        "scale_elastic_ep",
        "shutdown_weight_transfer_engine",
        "sleep",
        "start_draft_weight_update",
        "start_profile",
        "start_weight_update",
        "stop_profile",
        "update_weight_version",
        "update_weights",
        "wait_for_requests_to_drain",
        "wake_up",
    }
)
"""Methods of AsyncLLM that may be called by name."""


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


# --- to the engine ---


class Hello(_Message, frozen=True, tag="hello"):
    """The first message of a connection. Requests of the connection before are ended: its program is gone."""


class Ask(_Message, frozen=True, tag="ask"):
    """Asks for one event, `Welcome` or `Metrics`. Anybody may, on a connection of its own; it ends no requests."""

    metrics: bool = False


class Generate(_Message, frozen=True, tag="generate"):
    """`AsyncLLM.generate` or, with PoolingParams, `encode`. Without `prompt`, prompts come as `Chunk`s."""

    number: int
    request_id: str
    prompt: Any
    params: Any
    options: dict[str, Any]
    """The other arguments, as far as they were given."""


class Chunk(_Message, frozen=True, tag="chunk"):
    """A further input of a request whose prompt is a stream."""

    number: int
    prompt: Any
    params: Any


class ChunksEnd(_Message, frozen=True, tag="chunks_end"):
    number: int


class Cancel(_Message, frozen=True, tag="cancel"):
    """Nobody waits for this request any more."""

    number: int


class Call(_Message, frozen=True, tag="call"):
    """A method of `METHODS`. Answered by `Result` or `Failed`."""

    number: int
    method: str
    args: list[Any]
    kwargs: dict[str, Any]


ToEngine = Hello | Ask | Generate | Chunk | ChunksEnd | Cancel | Call

# --- to the program ---


class Welcome(_Message, frozen=True, tag="welcome"):
    """Answers `Hello`: what the program cannot know from the engine's arguments."""

    max_model_len: int
    cache: dict[str, Any]
    """Of vLLM's CacheConfig, what `FOUND_OUT` names."""
    log_stats: bool
    max_num_queued_reqs: int | None
    max_num_queued_tokens: int | None
    kv_event_sources: Any


class Metrics(_Message, frozen=True, tag="metrics"):
    """In Prometheus' text format."""

    text: str


class Piece(_Message, frozen=True, tag="piece"):
    """What was added to one of a request's completions."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    finish_reason: str | None
    stop_reason: int | str | None
    logprobs: Any
    more: dict[str, Any] | None
    """Further attributes of the CompletionOutput that are not None."""


class Output(_Message, frozen=True, tag="output"):
    """What was added to a request's output."""

    number: int
    finished: bool
    pieces: list[Piece]
    changed: dict[str, Any] | None
    """Attributes of the RequestOutput that are not what they were in the output before."""
    metrics: list[Any] | None
    """The fields of RequestStateStats, in order, with the first output and the last."""


class Pooled(_Message, frozen=True, tag="pooled"):
    number: int
    attributes: dict[str, Any]


class End(_Message, frozen=True, tag="end"):
    """No more outputs of this request will come, though none said that it was the last."""

    number: int


class Result(_Message, frozen=True, tag="result"):
    number: int
    value: Any


class Error(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An exception: the names of its class and base classes, most special first, and what it holds."""

    classes: list[str]
    args: list[Any]
    attributes: dict[str, Any]
    trace: str
    """Its traceback, as text."""
    cause: "Error | None"


class Failed(_Message, frozen=True, tag="failed"):
    number: int
    error: Error


class Died(_Message, frozen=True, tag="died"):
    """vLLM cannot go on, or a message of the program that has no number was not understood."""

    message: str


class Batch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    events: list[Welcome | Metrics | Output | Pooled | End | Result | Failed | Died]
    unfinished: int
    """Requests that vLLM has not finished."""
    queued_tokens: int
    """Prompt tokens of requests that wait for their first token, as vLLM counts them."""


# --- values ---


def pack(value: Any) -> Any:
    """What MessagePack can carry and `unpack` turns back.

    Raises:
        TypeError: `value` holds an object of another class than the module's docstring names, or itself.
    """
    try:
        return _pack(value)
    except RecursionError:
        raise TypeError("a value that holds itself, or is nested too deeply, cannot be sent") from None


def _pack(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str, bytes):
        return value
    if kind is list:
        return value if all(type(item) is int for item in value) else [_pack(item) for item in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: _pack(item) for key, item in value.items()}
    if kind in _exts:
        items = (
            [[_pack(key), _pack(item)] for key, item in value.items()] if kind is dict else [_pack(i) for i in value]
        )
        return _ext(_exts[kind], items)
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return _ext(_TENSOR, [str(value.dtype).removeprefix("torch."), list(value.shape), flat.numpy().tobytes()])
    if isinstance(value, torch.dtype):
        return _ext(_DTYPE, str(value).removeprefix("torch."))
    if isinstance(value, PIL.Image.Image):
        return _image(value)
    if kind is slice:
        return _ext(_SLICE, [_pack(part) for part in (value.start, value.stop, value.step)])
    if isinstance(value, numpy.generic):
        return _pack(value.item())
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "biufc":
        return _ext(_ARRAY, [value.dtype.str, list(value.shape), numpy.ascontiguousarray(value).tobytes()])
    if (name := _names().get(kind)) is not None:
        if (code := _code(kind)) != _OBJECT:
            return _ext(code, [name, _pack(value.value if code == _ENUM else value.data)])
        return _ext(_OBJECT, [name, {field: _pack(getattr(value, field)) for field in _fields(name)}])
    raise TypeError(_refusal(value))


def _refusal(value: Any) -> str:
    kind = type(value)
    if callable(value) and (name := getattr(value, "__qualname__", None)) is not None:
        what = "class" if isinstance(value, type) else "function"
        return f"the {what} {name} cannot be sent to the engine's process: nothing that runs can be"
    return (
        f"{kind.__module__}.{kind.__qualname__} cannot be sent to the engine's process; it takes numbers, text, bytes, "
        "containers, arrays, tensors, images, and vLLM's classes for parameters"
    )


def _image(image: PIL.Image.Image) -> msgspec.msgpack.Ext:
    """The pixels. What else there is, as in `info`, stays."""
    if image.mode not in IMAGE_MODES:
        raise TypeError(
            f"an image of mode {image.mode!r} cannot be sent to the engine's process: image.convert('RGB') can"
        )
    return _ext(_IMAGE, [image.mode, list(image.size), image.tobytes()])


def _ext(code: int, content: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, msgspec.msgpack.encode(content))


def _from_ext(code: int, data: memoryview) -> Any:
    content = msgspec.msgpack.decode(data, ext_hook=_from_ext)  # noqa: TID251 inside of a call of `_decoder`'s
    for kind, known in _exts.items():
        if code == known:
            return kind(tuple(item) if kind is dict else item for item in content)
    if code == _ARRAY:
        dtype, shape, buffer = content
        if numpy.dtype(dtype).kind not in "biufc":
            raise ValueError(f"arrays of {dtype!r} are not accepted")
        return numpy.frombuffer(buffer, dtype=dtype).reshape(shape).copy()
    if code == _TENSOR:
        name, shape, buffer = content
        dtype = _dtype(name)
        flat = torch.frombuffer(bytearray(buffer), dtype=torch.uint8) if buffer else torch.empty(0, dtype=torch.uint8)
        return flat.view(dtype).reshape(shape)
    if code == _DTYPE:
        return _dtype(content)
    if code == _IMAGE:
        mode, size, buffer = content
        if mode not in IMAGE_MODES:
            raise ValueError(f"images of mode {mode!r} are not accepted")
        width, height = size
        if width < 0 or height < 0 or (width * IMAGE_MODES[mode] + 7) // 8 * height != len(buffer):
            raise ValueError(f"{len(buffer)} bytes are no image of {width}x{height}")  # which would be made first
        return PIL.Image.frombytes(mode, (width, height), buffer)
    if code == _SLICE:
        start, stop, step = content
        return slice(start, stop, step)
    if code in (_OBJECT, _ENUM, _MAPPING):
        name, fields = content
        if (cls := _classes().get(name)) is None or _code(cls) != code:
            raise ValueError(f"objects of {name!r} are not accepted")
        return cls(**fields) if code == _OBJECT else cls(fields)
    raise ValueError(f"unknown extension {code}")


def _code(cls: type) -> int:
    """How objects of one of `CLASSES` travel."""
    return _ENUM if issubclass(cls, enum.Enum) else _MAPPING if issubclass(cls, UserDict) else _OBJECT


def _dtype(name: Any) -> torch.dtype:
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"the dtype {name!r} is not accepted")
    return dtype


@cache
def _classes() -> dict[str, type[Any]]:
    found = {name: _find(name) for name in CLASSES}
    return {name: cls for name, cls in found.items() if cls is not None}


@cache
def _names() -> dict[type, str]:
    return {cls: name for name, cls in _classes().items()}


def _find(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError:
        return None


@cache
def _fields(name: str) -> tuple[str, ...]:
    """What the constructor of a class takes."""
    cls = _classes()[name]
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_fields__
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls) if field.init)
    return tuple(cls.model_fields)  # pydantic


def encoder() -> Callable[[Any], bytes]:
    """Encodes a message whose values are packed."""
    return msgspec.msgpack.Encoder().encode


def encode_batch(encode: Callable[[Any], bytes], batch: Batch, instead: Callable[[Any, Exception], Any]) -> bytes:
    """One event that cannot be encoded takes no other one with it.

    Args:
        instead: what is sent for such an event, of which it gets the error, too.
    """
    try:
        return encode(batch)
    except Exception:
        events = []
        for event in batch.events:
            try:
                encode(event)
                events.append(event)
            except Exception as error:
                _logger.exception("an event cannot be sent")
                events.append(instead(event, error))
        return encode(msgspec.structs.replace(batch, events=events))


def engine_decoder() -> Callable[[bytes], ToEngine]:
    """Raises msgspec.DecodeError: not a message of this format, or one of vLLM's classes does not take what it says."""
    return _decoder(ToEngine)


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    decoding.ready(kind)
    decode = msgspec.msgpack.Decoder(kind, ext_hook=_from_ext).decode  # noqa: TID251 put right below

    def read(data: bytes) -> Any:
        try:
            with decoding.told():
                return decode(data)
        except msgspec.DecodeError:
            raise
        except Exception as error:  # whatever numpy, torch and constructors raise
            raise msgspec.DecodeError(f"{type(error).__name__}: {error}") from error

    return read


def number_of(data: bytes) -> int | None:
    """The number of a message that `engine_decoder` does not accept; None if it has none."""
    try:
        with decoding.told():
            fields = msgspec.msgpack.decode(data, ext_hook=lambda code, content: None)  # noqa: TID251
    except msgspec.DecodeError:
        return None
    number = fields[1] if isinstance(fields, list) and len(fields) > 1 else None
    return number if type(number) is int else None


def program_decoder() -> Callable[[bytes], Batch]:
    """Raises msgspec.DecodeError: as `engine_decoder`."""
    return _decoder(Batch)
