"""Gathers what the artifact identity is a hash of: see docs/design/0011-identity-by-content.md."""

import hmac
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vernal_contract.config import WeightsPlacement
from vernal_contract.identity import IdentityInputs
from vernal_contract.reasons import Reason

from vernal_worker.parallel import aside
from vernal_worker.store.contents import Contents
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import Store
from vernal_worker.supervisor import hub, log, software
from vernal_worker.supervisor.contents import ContentError, Digester, SourceError, Tick
from vernal_worker.supervisor.context import Context, Settings, StoppedError
from vernal_worker.supervisor.gpu import placement
from vernal_worker.supervisor.loads import loaded

MODEL = "model"
"""The model's name among `IdentityInputs.contents`."""

SLOW_STEP = (
    "install Python packages into the image, where their versions, sizes and times are looked at and not each byte"
)
_SLOW_SECONDS = 0.5
_NAMED, _NAMED_SECONDS = 3, 0.05


def gather(
    settings: Settings,
    weights: WeightsPlacement = WeightsPlacement.IN_IMAGE,
    *,
    contents: Contents | None = None,
    tick: Tick = lambda: None,
) -> IdentityInputs:
    """The identity inputs of the engine that `settings` ask for, on this image.

    Args:
        settings: from `hub.pin`.
        weights: where the checkpoint has them.
        contents: what is known about big files; None to read them all.
        tick: called now and then while files are read; raises to give up.

    Raises:
        ContentError: the model cannot be read; SourceError: something else that the engine loads.
    """
    config, arguments = settings.config, settings.arguments
    digester = Digester(contents, tick)
    sources = loaded(arguments, settings.shaping)
    if config.model.path is not None:
        sources[MODEL] = Path(config.model.path)
    digests: dict[str, str] = {}
    took: dict[str, float] = {}
    for name, path in sorted(sources.items()):
        began = time.monotonic()
        try:
            digests[name] = digester.digest(path)
        except ContentError as error:
            raise (ContentError if name == MODEL else SourceError)(f"{name}: {error}") from error
        took[name] = time.monotonic() - began
    digests |= {each.where: f"commit {each.revision}" for each in settings.repositories}
    if digester.read:
        log.event("contents_read", bytes=digester.read, message="files that the store did not know")
    if (told := slow(took, sources)) is not None:
        log.event("contents_slow", **told, message="read at each start", next_step=SLOW_STEP)
    here = software.find(settings.criu)  # last: what it takes goes on meanwhile
    return IdentityInputs(
        image_id=here.image_id,
        engine_args=dict(arguments),
        engine_env=dict(settings.shaping),
        model=config.model.name,
        model_revision=arguments.get("revision", config.model.revision),
        contents=digests,
        dtype=arguments.get("dtype"),
        tensor_parallel=int(arguments.get("tensor_parallel_size", 1)),
        pipeline_parallel=int(arguments.get("pipeline_parallel_size", 1)),
        weights=weights,
        signing_key=_key_id(settings.signing_key),
        versions=here.versions,
    )


def slow(took: Mapping[str, float], sources: Mapping[str, Path]) -> dict[str, Any] | None:
    """What to say of sources besides the model that hold each start up: seconds in all, and which take most of them.
    None if they do not. `took`: seconds by name."""
    others = {name: seconds for name, seconds in took.items() if name != MODEL}
    if (total := sum(others.values())) <= _SLOW_SECONDS:
        return None
    largest = sorted(others, key=lambda name: -others[name])[:_NAMED]
    told = [f"{name}={sources[name]} {others[name]:.1f} s" for name in largest if others[name] >= _NAMED_SECONDS]
    return {"seconds": total, "sources": ", ".join(told)}


def _key_id(key: bytes | None) -> str | None:
    """Says nothing about the key, but differs where it does."""
    return None if key is None else hmac.digest(key, b"vernal artifact identity", "sha256").hex()[:16]


def find_out(context: Context, store: Store) -> tuple[Settings, IdentityInputs]:
    """The settings with what a hub says, and the identity, at a worker's start.

    Raises:
        HubError, ContentError: see there.
        StoreError: stage find: there is no store, or (`STORE_SLOW`) what the engine loads was not read in time.
        StoppedError: told to stop meanwhile.
    """
    seconds = context.settings.config.checkpoint.freeze_timeout_seconds
    deadline = time.monotonic() + seconds

    def tick() -> None:
        if context.stop.signalled.is_set():
            raise StoppedError
        if time.monotonic() > deadline:
            raise StoreError(Reason.STORE_SLOW, "find", f"the model's files were not read in {seconds:g} s")

    def find() -> tuple[Settings, IdentityInputs]:
        settings = hub.pin(context.settings)
        weights = placement(settings.config)
        return settings, gather(settings, weights, contents=store.contents, tick=tick)

    store.check()
    with context.board.timed("identity"):
        return aside(find, tick)
