"""Engine arguments that a pool may not give, because Vernal gives them or because they would end up in a checkpoint.

The API server refuses them when a pool is applied, the operator when it reads one, the worker when it starts.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from vernal_contract import decoding

OWNED: Final[dict[str, str]] = {
    "model": "spec.model says which model",
    "revision": "spec.model.revision says which revision",
    "host": "the worker opens the port itself",
    "port": "the worker opens the port itself",
    "uds": "the worker opens the port itself",
    "api_key": "a key in the arguments would be in the checkpoint; put VLLM_API_KEY into the pool's secrets",
    "worker_extension_cls": "Vernal reaches vLLM's workers through it",
    "ssl_keyfile": "a private key would be in the checkpoint; end TLS in front of the worker",
    "ssl_certfile": "end TLS in front of the worker",
    "api_server_count": "a worker has one API server",
    "headless": "a worker serves HTTP",
    "config": "what is in a file of arguments could not be told apart; put its content into engineArgs",
}
"""By canonical name, and why."""

_TEXT = frozenset(["chat_template", "served_model_name"])
"""Arguments whose text is a text for vLLM, too, where it looks like JSON."""

_NAME = re.compile(r"[A-Za-z0-9_-]+((\.[A-Za-z0-9_-]+)+\+?)?")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgt])|(\d+)([KMGT])")
_UNITS = "kmgt"


class EngineArgumentError(ValueError):
    """An engine argument cannot be used; the message begins with `engineArgs.`, its name."""


def canonical(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What arguments mean, however they are written: names in snake_case and in order, None left out, JSON in text
    decoded, and `a.b: 1` as `a: {b: 1}`. Twice is as once. As vLLM's parser reads them
    (`vllm/utils/argparse_utils.py`), but that nothing may be said in two places.

    The text of a list becomes a list with that list in it: an option with several values would take it apart.

    Raises:
        EngineArgumentError: an argument is Vernal's own, is there twice, or is none.
    """
    result: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for name, value in sorted(arguments.items(), key=lambda item: (item[0].endswith("+"), item[0])):
        spelt = name.removeprefix("--")
        if _NAME.fullmatch(spelt) is None:
            raise EngineArgumentError(f"engineArgs.{name} is no name of an argument")
        root, *keys = spelt.removesuffix("+").split(".")
        key = canonical_name(root)
        if key in OWNED:
            raise EngineArgumentError(f"engineArgs.{name} cannot be set: {OWNED[key]}")
        place = ".".join((key, *keys)) + "+" * spelt.endswith("+")
        if place in seen:
            raise EngineArgumentError(f"engineArgs.{name} is there twice: as {seen[place]}, too")
        seen[place] = name
        if value is None:
            continue
        read = _of_dotted if keys else _decoded
        _put(result, name, [key, *keys], value if key in _TEXT else read(name, value), append=spelt.endswith("+"))
    return dict(sorted(result.items()))


def _put(result: dict[str, Any], name: str, path: list[str], value: Any, *, append: bool) -> None:
    """Where `path` leads to in nested mappings, which are made here and nowhere else."""
    *way, last = path
    for key in way:
        inner = result.setdefault(key, _Folded())
        if not isinstance(inner, _Folded):
            raise EngineArgumentError(f"engineArgs.{name} is there twice: as a whole, too")
        result = inner
    if append:
        value = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
        if isinstance(before := result.get(last, []), list):
            result[last] = [*before, *value]
            return
    if last in result:
        raise EngineArgumentError(f"engineArgs.{name} is there twice: other names say parts of it")
    result[last] = value


class _Folded(dict[str, Any]):
    """Made of dotted names, not given as a mapping."""


def _decoded(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, str) and item.startswith("--"):
                raise EngineArgumentError(f"engineArgs.{name} cannot have the value {item!r}, which begins with --")
        return [_json(name, item) if _is_json_like(item) else item for item in value]
    if not _is_json_like(value):
        return value
    decoded = _json(name, value)
    return [decoded] if isinstance(decoded, list) else decoded


def _is_json_like(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip()[:1] in ("{", "[")


def _json(name: str, text: str) -> Any:
    """With the parser that vLLM has, so that nothing is JSON for one and text for the other."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise EngineArgumentError(f"engineArgs.{name} is nested too deeply") from None
    if decoding.too_deep(value):
        raise EngineArgumentError(f"engineArgs.{name} is nested too deeply")
    return value


def _of_dotted(name: str, value: Any) -> Any:
    """What vLLM makes of the text of a dotted name: 80g is a number there."""
    if not isinstance(value, str) or name.endswith("+"):
        return value
    if (number := _NUMBER.fullmatch(value)) is None:
        return _json(name, value)
    decimal, unit, whole, binary = number.groups()
    if decimal:
        return int(float(decimal) * 1000 ** (_UNITS.index(unit) + 1))
    return int(whole) << 10 * (_UNITS.index(binary.lower()) + 1)


def canonical_name(name: str) -> str:
    """An argument's name in snake_case, however it is spelt: max-model-len, --max-model-len, maxModelLen."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name).replace("-", "_").lstrip("_")


def spellings(canonical: str) -> tuple[str, ...]:
    """The ways to write a name: snake_case, kebab-case, camelCase; each once."""
    camel = re.sub(r"_([a-z])", lambda match: match[1].upper(), canonical)
    return tuple(dict.fromkeys((canonical, canonical.replace("_", "-"), camel)))
