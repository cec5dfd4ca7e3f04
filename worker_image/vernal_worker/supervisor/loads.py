"""What an engine loads from files, as its arguments and environment name it."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_NOT_LOADED = frozenset(
    [
        "allowed_local_media_path",  # what requests may name
        "download_dir",
        "ec_transfer_config",
        "kv_transfer_config",  # a cache, whose blocks say themselves what they are
        "compilation_config.cache_dir",
        "compilation_config.debug_dump_path",
        "compilation_config.local_cache_dir",
        "model",  # is looked at by itself
        "profiler_config.proton_profiler_dir",
        "profiler_config.torch_profiler_dir",
        "root_path",
        "served_model_name",
    ]
)
"""Arguments, or parts of them, whose values may look like paths, and are none or of something that does not make the
answers: caches, and what is written."""

_NOT_CONTENT = re.compile(
    r".*(CACHE|HOME|ROOT|TMP|BASE_PATH|_DIR_OUT).*"
    r"|.*(PROFIL|DUMP|TRACE|DEBUG|ERROR|REPRODUCER)\w*_(DIR|PATH|FILE|FOLDER)|.*(LOG|LOGS|LOGGING)_(DIR|PATH|FILE|FOLDER|OUT)"
    r"|TORCH_TRACE|PATH|LD_LIBRARY_PATH|SSL_.*|VIRTUAL_ENV"
)
"""Variables with directories that are caches, with what is written (traces, dumps, logs), or with what is looked into
for programs and libraries of the image."""

_SEVERAL = {"PYTHONPATH": ":", "LD_PRELOAD": "[: ]"}
"""Variables with several paths, and what stands between them."""

_CWD = Path("/")
"""Where the engine is started."""


def loaded(arguments: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Path]:
    """Files and directories besides the model, by what names them: `engineArgs.chat_template`, `env.PYTHONPATH[0]`."""
    found: dict[str, Path] = {}
    for name, value in arguments.items():
        if name not in _NOT_LOADED:
            for where, text in _texts(f"engineArgs.{name}", value):
                if where.removeprefix("engineArgs.") in _NOT_LOADED:
                    continue
                # A LoRA adapter is NAME=PATH.
                for candidate in dict.fromkeys((text, text.partition("=")[2])):
                    if (path := _path(candidate)) is not None:
                        found[where] = path
    for name, value in variables.items():
        if name in _SEVERAL:
            for number, text in enumerate(re.split(_SEVERAL[name], value)):
                if (path := _path(text)) is not None:
                    found[f"env.{name}[{number}]"] = path
        elif not _NOT_CONTENT.fullmatch(name) and value.startswith("/") and (path := _path(value)) is not None:
            found[f"env.{name}"] = path
    return found


def _texts(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(f"{where}.{key}", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _texts(f"{where}[{number}]", item)


def _path(text: str) -> Path | None:
    """A single word such as "auto" is a path only if a file has that name."""
    if not text or "\0" in text or len(text) > 4096 or "\n" in text:
        return None
    path = _CWD / Path(text).expanduser() if text.startswith("~") else _CWD / text
    try:
        there = path.exists() if "/" in text else path.is_file()
    except OSError:
        return None
    # The root directory itself is named by URL prefixes, never by something to load.
    return path if there and os.path.normpath(path) != "/" else None
