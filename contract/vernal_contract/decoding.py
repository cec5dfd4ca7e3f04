"""Reading what others wrote, JSON or MessagePack: whatever is wrong with it is a `msgspec.DecodeError`.

msgspec lets two other errors out, which nobody who reads a file or an answer thinks of: UnicodeDecodeError for text
that is not UTF-8, and RecursionError for what is nested deeper than Python's stack. So no module calls msgspec's
decoders but by way of this one (`make lint` holds that).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

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


def json(data: bytes | str, type: type[T]) -> T:
    """The value that `data` holds, of this type.

    Raises:
        msgspec.DecodeError: or its subclass ValidationError, whose message has the path of what is of another type.
    """
    with told():
        return msgspec.json.decode(data, type=type)  # noqa: TID251


def json_decoder(type: Any) -> Callable[[bytes], Any]:
    """As `json`, for many values of one type, which may be a union."""
    decode = msgspec.json.Decoder(type).decode  # noqa: TID251

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
