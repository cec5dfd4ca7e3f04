"""Exceptions on the wire: the original class where it is a known one, and never by running what was received."""

import builtins
import traceback
from functools import cache
from types import ModuleType
from typing import Any

import vllm.exceptions
import vllm.v1.engine.exceptions

from vernal_worker.engine import wire

_SPECIAL = (UnicodeError, BaseExceptionGroup)
"""Cannot be made without arguments of a certain form."""


class RemoteError(RuntimeError):
    """An exception in the engine's process of a class that this process does not know; the text names it."""


@cache
def _known() -> dict[str, type[Exception]]:
    modules: tuple[ModuleType, ...] = (builtins, vllm.exceptions, vllm.v1.engine.exceptions)
    return {
        _name(value): value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, _SPECIAL)
    }


def pack(error: BaseException) -> wire.Error:
    """An exception, with the one that caused it."""
    cause = error.__cause__
    return wire.Error(
        classes=[_name(cls) for cls in type(error).__mro__],
        args=[_plain(value) for value in error.args] or [str(error)],
        attributes={name: _plain(value) for name, value in vars(error).items() if not name.startswith("__")},
        trace="".join(traceback.format_tb(error.__traceback__)),
        cause=pack(cause) if cause is not None else None,
    )


def unpack(error: wire.Error) -> Exception:
    """An exception of the same class, or of its nearest base class that is known. A note says where in the engine's
    process it was raised, and of which class."""
    for name in error.classes:
        cls = _known().get(name)
        if cls is not None and (cls is not Exception or name == error.classes[0]):
            result = cls.__new__(cls, *error.args)  # not __init__: its arguments are not the exception's
            result.args = tuple(error.args)
            vars(result).update(error.attributes)
            break
    else:
        result = RemoteError(f"{error.classes[0]}: {' '.join(map(str, error.args))}")
    if error.trace:
        result.add_note(f"In the engine's process:\n{error.trace}{error.classes[0]}")
    if error.cause is not None:
        result.__cause__ = unpack(error.cause)
    return result


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: Any) -> Any:
    return value if value is None or type(value) in (bool, int, float, str) else str(value)
