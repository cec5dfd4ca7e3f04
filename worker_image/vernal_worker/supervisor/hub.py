"""Models that come from a Hugging Face hub: which commit they are, and getting them without the engine's help.

What a branch or tag holds may change, so an identity names the commit. An engine that is to be frozen gets files
instead of names: whatever it said to a hub, its token first of all, would be in its memory and so in the checkpoint.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from vernal_contract import decoding

from vernal_worker.checkpoint.launch import bare
from vernal_worker.supervisor import log
from vernal_worker.supervisor.context import Repository, Settings

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""For an engine that has all that it needs."""

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SECONDS = 10.0
_MOST = 64 << 20  # bytes of a hub's answer
_POLL = 0.1


class HubError(Exception):
    """It cannot be said which content a name stands for, or the content cannot be had; the message names it."""


class _Described(msgspec.Struct, frozen=True):
    """What a hub says of a revision, as far as it matters here."""

    sha: str


class Fetched(msgspec.Struct, frozen=True):
    """One line of JSON from `vernal_worker.engine.fetch`: where each repository's files are."""

    directories: dict[str, str]


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
        try:
            return _ask(repository.name, revision, environment)
        except (OSError, ValueError, http.client.HTTPException) as error:
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


def _ask(name: str, revision: str, environment: Mapping[str, str]) -> str:
    """huggingface_hub would do the same and takes half a second to import, a third of a thaw."""
    endpoint = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    url = f"{endpoint.rstrip('/')}/api/models/{name}/revision/{urllib.parse.quote(revision, safe='')}"
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"HF_ENDPOINT is {endpoint!r}")
    request = urllib.request.Request(url)  # noqa: S310 checked above
    if token := next((environment[name] for name in TOKENS if environment.get(name)), None):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
        commit = decoding.json(answer.read(_MOST), _Described).sha
    if not _COMMIT.fullmatch(commit):
        raise ValueError(f"{url} answers with {commit!r}")
    return commit


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


def fetch(settings: Settings, timeout: float, cancel: threading.Event) -> dict[str, str]:
    """Get the files of `settings.repositories` with a process that ends before anything is frozen, and has the secrets
    and none of process 1's capabilities.
    Returns directories by `Repository.where`.

    Raises:
        HubError: they cannot be had; the message says what to do.
        InterruptedError: `cancel` was set.
    """
    wanted = {each.where: (each.name, each.revision) for each in settings.repositories}
    command, environment = bare(
        [sys.executable, "-m", "vernal_worker.engine.fetch", json.dumps(wanted)],
        {**settings.environment, **settings.secrets},
    )
    log.event("fetch", repositories=" ".join(each.name for each in settings.repositories))
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/", start_new_session=True
    ) as process:
        output: list[bytes] = []
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: output.append(process.stdout.read()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        left = timeout
        while reader.is_alive():
            reader.join(_POLL)
            left -= _POLL
            if cancel.is_set() or left <= 0:
                process.kill()
                reader.join()
                if cancel.is_set():
                    raise InterruptedError
                raise HubError(f"the model was not fetched in {timeout:g} s")
    lines = output[0].splitlines()
    if process.returncode != 0 or not lines:
        message = lines[-1].decode(errors="replace") if lines else f"exit code {process.returncode}"
        raise HubError(f"{message}; a gated model needs HF_TOKEN from a Secret in the pool's env")
    return decoding.json(lines[-1], Fetched).directories
