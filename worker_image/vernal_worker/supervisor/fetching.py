"""Getting the files of a hub's repositories."""

import json
import subprocess
import sys
import threading

import msgspec
from vernal_contract import decoding

from vernal_worker.checkpoint.launch import bare
from vernal_worker.supervisor import log
from vernal_worker.supervisor.context import Settings
from vernal_worker.supervisor.hub import HubError

_POLL = 0.1


class Fetched(msgspec.Struct, frozen=True):
    """One line of JSON from `vernal_worker.engine.fetch`: where each repository's files are."""

    directories: dict[str, str]


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
