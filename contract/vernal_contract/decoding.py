"""Reading what others wrote, JSON or MessagePack: whatever is wrong with it is a `msgspec.DecodeError`.

msgspec lets two other errors out, which nobody who reads a file or an answer thinks of: UnicodeDecodeError for text
that is not UTF-8, and RecursionError for what is nested deeper than Python's stack. So no module calls msgspec's
decoders but by way of this one (`make lint` holds that).

And msgspec (0.22) looks into a class when it is first used, while other threads may use already what it has found so
far: a null pointer, which ends the process. So classes are looked into one at a time, before anything is decoded.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_looking = threading.Lock()
_decoders: dict[Any, "msgspec.json.Decoder[Any]"] = {}  # noqa: TID251

LEVELS = 64
"""How deep a value may be nested that is kept, compared and written again: Python's ways to do that are recursive."""


@contextmanager
def told() -> Iterator[None]:
    """What msgspec raises in the block as its own error.

    Raises:
        msgspec.DecodeError: or its subclass ValidationError.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"text that is not UTF-8: {error.reason} at byte {error.start} of it") from error
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None


def ready(type: Any) -> "msgspec.json.Decoder[Any]":  # noqa: TID251
    """A decoder of this type, which with all that is in it is looked into when this returns: any thread may decode it,
    by other decoders of msgspec's, too."""
    if (found := _decoders.get(type)) is None:
        with _looking:
            found = _decoders[type] = msgspec.json.Decoder(type)  # noqa: TID251
    return found


def json(data: bytes | str, type: type[T]) -> T:
    """The value that `data` holds, of this type.

    Raises:
        msgspec.DecodeError: or its subclass ValidationError, whose message has the path of what is of another type.
    """
    with told():
        found: T = ready(type).decode(data)
        return found


def convert(value: Any, type: type[T], *, from_attributes: bool = False) -> T:
    """What was decoded without a type as a value of this one.

    Raises:
        msgspec.ValidationError: its message has the path of what is of another type.
    """
    ready(type)
    return msgspec.convert(value, type, from_attributes=from_attributes)  # noqa: TID251


def json_decoder(type: Any) -> Callable[[bytes], Any]:
    """As `json`, for many values of one type, which may be a union."""
    decode = ready(type).decode

    def read(data: bytes) -> Any:
        with told():
            return decode(data)

    return read


def too_deep(value: Any, levels: int = LEVELS) -> bool:
    """Whether lists and objects in `value` are nested deeper than that."""
    layer = _nested([value])
    for _ in range(levels):
        layer = [inner for outer in layer for inner in _nested(outer)]
    return bool(layer)


def _nested(outer: list[Any] | dict[str, Any]) -> list[list[Any] | dict[str, Any]]:
    return [inner for inner in (outer.values() if isinstance(outer, dict) else outer) if isinstance(inner, list | dict)]


def check_levels(value: Any, what: str) -> None:
    """Raises: msgspec.DecodeError: `value` is nested deeper than `LEVELS`; `what` names it."""
    if too_deep(value):
        raise msgspec.DecodeError(f"{what} is nested deeper than {LEVELS} levels")
