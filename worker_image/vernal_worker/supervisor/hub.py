"""Models that come from a Hugging Face hub: which commit they are, and getting them without the engine's help.

What a branch or tag holds may change, so an identity names the commit. An engine that is to be frozen gets files
instead of names: whatever it said to a hub, its token first of all, would be in its memory and so in the checkpoint.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from vernal_worker.supervisor.context import Repository, Settings

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""For an engine that has all that it needs."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class HubError(Exception):
    """It cannot be said which content a name stands for, or the content cannot be had; the message names it."""


def repositories(settings: Settings) -> Iterator[Repository]:
    """Those that the engine would ask a hub for."""
    arguments = settings.arguments
    if settings.config.model.path is None:
        yield Repository("model", settings.config.model.name, settings.config.model.revision)
    draft = arguments.get("speculative_config")
    named: list[tuple[str, Any, Any]] = [
        ("tokenizer", arguments.get("tokenizer"), arguments.get("tokenizer_revision")),
        ("hf_config_path", arguments.get("hf_config_path"), None),
        ("generation_config", arguments.get("generation_config"), None),
    ]
    if isinstance(draft, Mapping):
        named.append(("speculative_config.model", draft.get("model"), draft.get("revision")))
    named.append(("spec_model", arguments.get("spec_model"), None))
    adapters = arguments.get("lora_modules", [])
    several = isinstance(adapters, list)
    for number, adapter in enumerate(adapters if several else [adapters]):
        where = f"lora_modules[{number}]" if several else "lora_modules"
        if isinstance(adapter, Mapping):
            named.append((f"{where}.path", adapter.get("path"), None))
        elif isinstance(adapter, str):
            named.append((where, adapter.partition("=")[2], None))
    for where, name, revision in named:
        if isinstance(name, str) and "/" in name and _NAME.fullmatch(name) and not Path("/", name).exists():
            yield Repository(f"engineArgs.{where}", name, revision)


def pin(settings: Settings, variables: Mapping[str, str] = os.environ) -> Settings:
    """The same settings with every repository's commit in `Settings.repositories`, and as the model's revision.

    Raises:
        HubError: the hub does not say.
    """
    pinned = tuple(
        replace(repository, revision=_commit(repository, settings, variables)) for repository in repositories(settings)
    )
    arguments = dict(settings.arguments)
    for repository in pinned:
        if repository.where == "model":
            arguments["revision"] = repository.revision
    return replace(settings, repositories=pinned, arguments=dict(sorted(arguments.items())))


def _commit(repository: Repository, settings: Settings, variables: Mapping[str, str]) -> str:
    """What a branch or tag stands for: as the hub says, or, where there is none, the cache of downloads."""
    if _COMMIT.fullmatch(repository.revision or ""):
        return str(repository.revision)
    if not _NAME.fullmatch(repository.name):
        raise HubError(f"{repository.where}: {repository.name!r} is neither a directory nor the name of a repository")
    revision = repository.revision or "main"
    environment = {**variables, **settings.environment, **settings.secrets}
    problem = "HF_HUB_OFFLINE is set"
    if environment.get("HF_HUB_OFFLINE", "0").lower() not in ("1", "true", "yes", "on"):
        from vernal_worker.supervisor import hub_request  # here: most pools have their models on volumes

        try:
            said = hub_request.commit(repository.name, revision, environment)
            if _COMMIT.fullmatch(said):
                return said
            problem = f"the hub answers with {said!r}"
        except (OSError, ValueError) as error:
            problem = str(error) or type(error).__name__
    home = environment.get("HF_HUB_CACHE") or f"{environment['HF_HOME']}/hub"
    cached = Path(home, f"models--{repository.name.replace('/', '--')}", "refs", revision)
    try:
        if _COMMIT.fullmatch(commit := cached.read_text().strip()):
            return commit
    except (OSError, ValueError):
        pass
    raise HubError(
        f"{repository.where}: it is not known which commit {revision!r} of {repository.name!r} is: {problem}"
    )


def with_files(
    arguments: Mapping[str, Any], repositories: Iterable[Repository], directories: Mapping[str, str]
) -> dict[str, Any]:
    """The engine's arguments with directories, by `Repository.where`, instead of repositories' names."""
    names = {each.where: each.name for each in repositories}

    def place(where: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: place(f"{where}.{key}", item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [place(f"{where}[{number}]", item) for number, item in enumerate(value)]
        if where not in directories:
            return value
        return f"{value.removesuffix(names[where])}{directories[where]}"  # NAME=REPOSITORY of an adapter

    return {name: place("model" if name == "model" else f"engineArgs.{name}", v) for name, v in arguments.items()}
