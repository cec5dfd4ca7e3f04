"""What of an artifact is of use to the cold start after a failed thaw."""

import time
from pathlib import Path

import msgspec
from vernal_contract.reasons import About, Reason, about

from vernal_worker.checkpoint import carry, process
from vernal_worker.checkpoint.criu import Patience
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.supervisor import log
from vernal_worker.supervisor.context import Context
from vernal_worker.supervisor.parts import PROCESS
from vernal_worker.supervisor.workspace import empty

SECONDS = 60.0
"""For reading it. Compiling anew takes longer."""


def keep_compiled(context: Context, artifact: Artifact, reason: Reason) -> None:
    """Lay the frozen engine's compiled kernels back, which save a cold start half of its time: if they are, byte for
    byte, what was frozen. Never raises: without them it only takes longer.

    Args:
        reason: why the thaw failed. Of a storage that cannot be read, nothing is read.
    """
    if about(reason) is About.STORAGE:
        return
    cache, cancel = context.settings.paths.cache, context.stop.signalled
    patience = Patience(SECONDS, cancel, Reason.STORE_SLOW, Reason.THAW_GIVEN_UP)
    began = time.monotonic()
    directory = artifact.path / PROCESS
    try:
        artifact.verify_files([f"{PROCESS}/{process.DATA}"], timeout=SECONDS, cancel=cancel)
        frozen = process.decode(artifact.read(f"{PROCESS}/{process.NAME}"), artifact.sizes(PROCESS))
        files = tuple(file for file in frozen.files if Path(file.path).is_relative_to(cache))
        process.confine(msgspec.structs.replace(frozen, roots=(str(cache),), files=files), [cache])
        carry.lay(frozen.files, directory / process.DATA, patience.check, below=cache)
    except (StoreError, CheckpointError) as error:
        empty(cache)
        log.event("compile_cache_lost", reason=error.reason, message=error.message)
    else:
        log.event("compile_cache_kept", seconds=time.monotonic() - began)
