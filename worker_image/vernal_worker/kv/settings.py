"""The connector's options: vLLM's `kv_connector_extra_config`, with names and units of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from vernal_contract import decoding

DEFAULT_FLUSH_SECONDS = 30.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All but the path have defaults that suit a shared filesystem in the same data centre.

    Attributes:
        shared_storage_path: directory that all workers which share blocks see.
        load_async: load between steps, while other requests are computed. False: before the step that needs it, which
            makes the whole batch wait. Always true for parallel engines, and with asynchronous scheduling or vLLM's V2
            model runner (see `facts.recovers_synchronous_loads`).
        max_bytes: size limit of the whole directory; the least recently used blocks go. None: until the disk is full.
        load_timeout_seconds: storage's time for each eighth of a prompt's blocks; else they are computed.
        lookup_timeout_seconds: what storage has not said by then counts as absent.
        cooldown_seconds: the store is left alone for this long: not read after it answered nobody for one of these
            times, not written after it was full or failed. Also how long a measured speed counts; 0: not at all.
        flush_timeout_seconds: a worker that exits, or is frozen, waits this long for its saves.
        producer_wait_seconds: a `kv_producer` waits this long in a step for room in `save_buffer_mib`; other roles
            never wait, and save less.
        threads: storage calls at a time for loads; for saves half as many.
        load_buffer_mib, save_buffer_mib: host memory, page-locked on GPUs, for blocks under way.
        model_digest: says which weights these are, where the model's files cannot tell.
    """

    shared_storage_path: str
    load_async: bool = True
    max_bytes: int | None = None
    load_timeout_seconds: float = 5.0
    lookup_timeout_seconds: float = 0.25
    cooldown_seconds: float = 30.0
    flush_timeout_seconds: float = DEFAULT_FLUSH_SECONDS
    producer_wait_seconds: float = 10.0
    threads: int = 16
    load_buffer_mib: int = 256
    save_buffer_mib: int = 512
    model_digest: str | None = None

    @property
    def root(self) -> Path:
        return Path(self.shared_storage_path)


def parse(extra_config: Mapping[str, Any]) -> Settings:
    """Raises: ValueError: an option is unknown, missing or of the wrong type; the message names it."""
    try:
        settings = decoding.convert(extra_config, Settings)
    except msgspec.ValidationError as error:
        raise ValueError(f"kv_connector_extra_config: {error}") from error
    if not settings.root.is_absolute():
        raise ValueError(f"kv_connector_extra_config: shared_storage_path must be absolute, not {settings.root}")
    for name in ("load_timeout_seconds", "lookup_timeout_seconds", "threads", "load_buffer_mib", "save_buffer_mib"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"kv_connector_extra_config: {name} must be greater than 0")
    return settings
