"""Bring a frozen process tree back to life."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import carry, pids, process, procfs
from vernal_worker.checkpoint.criu import TICK, Criu, Patience, find
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.hook import GO, Hook
from vernal_worker.checkpoint.memory import Digests
from vernal_worker.checkpoint.reading_ahead import MappedFile, read_ahead
from vernal_worker.checkpoint.timings import Timings
from vernal_worker.checkpoint.tree import ProcessTree, kill, reap
from vernal_worker.checkpoint.waking import Ahead, Waking

KILL_TIMEOUT = 20.0

_LAID_SECONDS = 1.0
"""After giving up, for the thread that lays files to notice. Storage that hangs keeps it longer, but then it makes no
file any more."""


class ThawResult(msgspec.Struct, frozen=True):
    """The tree, a child of the caller. `timings`: seconds by step: `files`, `criu` (which holds the next two),
    `memory`, `verify_wait` (for `verified`), `memory_rest` (of processes that run later than others), `total`."""

    tree: ProcessTree
    timings: Timings


def thaw(
    image_dir: Path,
    frozen: process.Frozen,
    *,
    criu: str = "criu",
    timeout: float,
    work_dir: Path,
    cancel: threading.Event | None = None,
    digests: Digests | None = None,
    started: Callable[[], None] = lambda: None,
    verified: Callable[[], None] = lambda: None,
    ahead: Ahead | None = None,
) -> ThawResult:
    """Restore what `freeze` wrote. `image_dir` is only read: any number of nodes may thaw it at once.

    Lays the carried files back, gives the tree new stdout and stderr pipes, restores it under its old PIDs
    as a child of the caller, fills the memory that is not in CRIU's images. The tree runs when this returns.
    CUDA state is restored by the caller afterwards; to begin with it is for `ahead`.

    Args:
        frozen: what `process.json` there says; the caller knows that it is what was written.
        criu: program name or path.
        timeout: for the whole call; cleaning up after a failure takes up to `KILL_TIMEOUT` more.
        work_dir: local directory for CRIU's log (`restore.log`); made if absent, an old log is removed.
        cancel: set it from another thread to give up.
        digests: of the files of memory (`images.MEMORY`), which are read here and nowhere else; None to trust the
            storage. All other files are the caller's to verify.
        started: called when CRIU runs.
        verified: returns when they are. Called when every process is there and none runs yet; what it raises ends them
            before they do, and is raised here.
        ahead: processes that run first, and what begins then, while the others still wait for their memory. What it
            raises ends the tree, and is raised here.

    Raises:
        CheckpointError: `DIGEST_MISMATCH` (stage `memory`), `CRIU_MISSING`, `CRIU_RESTORE_FAILED` (stage `pids` if a
            PID is taken, `memory` if it cannot be written), `SHM_FAILED`, `THAW_TIMEOUT`, `THAW_GIVEN_UP` (cancelled);
            of files that are read here (stages `files` and `memory`) `FILE_MISSING`, `FILE_SIZE_MISMATCH`,
            `STORE_UNAVAILABLE`, `STORE_SLOW` (time was up meanwhile). Whatever came up is killed and reaped, every PID
            of the tree is free, and the files laid are removed.
    """
    began = time.monotonic()
    patience = Patience(timeout, cancel, Reason.THAW_TIMEOUT, Reason.THAW_GIVEN_UP)
    program = find(criu)
    memory = [MappedFile(str(image_dir / each.file), ((0, each.bytes),)) for each in frozen.memory]
    running = threading.Event()
    read_ahead(frozen.mapped, [*memory, *frozen.code], at_leisure=running)
    ids = set(frozen.ids)
    if taken := pids.taken(ids):
        raise CheckpointError(
            Reason.CRIU_RESTORE_FAILED,
            "pids",
            f"the tree needs PIDs that are in use here: {procfs.describe(taken)}",
        )
    work_dir.mkdir(parents=True, exist_ok=True)
    pids.keep_helpers_below(min(ids))
    roots = [Path(root) for root in frozen.roots]
    before = carry.contents(roots)
    timings = Timings()

    def runs() -> None:
        running.set()
        started()

    laid = threading.Event()
    tree: ProcessTree | None = None

    def lay() -> None:
        try:
            carry.lay(frozen.files, image_dir / process.DATA, patience.check)
        finally:
            laid.set()

    try:
        patience.read("files", lay)
        timings["files"] = time.monotonic() - began
        waking = Waking(frozen, image_dir, digests, patience, ahead, timings)
        tree = _restore(program, image_dir, frozen, work_dir, patience, waking, runs, verified, timings)
        waking.finish()
    except BaseException as e:
        left = _kill(ids)
        if tree is not None:
            tree.close()
        laid.wait(_LAID_SECONDS)  # or it might lay one more file after this
        carry.remove(carry.contents(roots) - before)
        if isinstance(e, CheckpointError) and left:
            e.message += f"\nPIDs still there {KILL_TIMEOUT:g} s after SIGKILL: {procfs.describe(left)}"
        raise
    carry.remove(carry.link_remaps(carry.contents(roots) - before))  # open by now, and needed by nobody
    timings["total"] = time.monotonic() - began
    return ThawResult(tree, timings)


def _restore(
    program: str,
    image_dir: Path,
    frozen: process.Frozen,
    work_dir: Path,
    patience: Patience,
    waking: Waking,
    started: Callable[[], None],
    verified: Callable[[], None],
    timings: Timings,
) -> ProcessTree:
    began = time.monotonic()
    pipes = {frozen.stdout: os.pipe(), frozen.stderr: os.pipe()}
    inherit = [option for name, (_, fd) in pipes.items() for option in ("--inherit-fd", f"fd[{fd}]:{name}")]
    readers, writers = [r for r, _ in pipes.values()], [w for _, w in pipes.values()]
    run: Criu | None = None
    try:
        with Hook(work_dir, "pre-resume") as hook:
            script = ("--action-script", str(hook.script))
            images = ("--images-dir", str(image_dir / process.IMAGES))
            run = Criu(
                program,
                "restore",
                [*images, *script, "--restore-detached", "--restore-sibling", *inherit],
                work_dir=work_dir,
                inherit=writers,
            )
            started()
            _wait(run, hook, patience, waking, verified, timings)
        timings["criu"] = time.monotonic() - began
        return ProcessTree(frozen.root, readers[0], readers[1], os.pidfd_open(frozen.root))
    except BaseException:
        if run is not None:
            run.kill()
        _close(readers)
        raise
    finally:
        _close(writers)


def _wait(
    run: Criu,
    hook: Hook,
    patience: Patience,
    waking: Waking,
    verified: Callable[[], None],
    timings: Timings,
) -> None:
    """Until CRIU is done. In between, when every process is there and none runs yet, fill their memory, and wait until
    all that they are made of is verified."""
    answered = False
    while (code := run.wait(TICK, -1 if answered else hook.asked)) is None:
        patience.check()
        if not answered and hook.is_asked():
            waking.prepare()
            before = time.monotonic()
            patience.run(verified)
            timings["verify_wait"] = time.monotonic() - before
            answered = True
            waking.hold_back()
            hook.answer(GO)
    if code != 0:
        raise run.failure(Reason.CRIU_RESTORE_FAILED)
    if not answered:
        raise CheckpointError(Reason.CRIU_RESTORE_FAILED, "memory", "CRIU did not ask before it let the processes run")


def _kill(ids: set[int]) -> set[int]:
    """End whatever came up under `ids` (they were free before) and wait until they are free again."""
    deadline = time.monotonic() + KILL_TIMEOUT
    while (left := reap(ids)) and time.monotonic() < deadline:  # all of them each time: one may have forked just before
        kill(left)
        time.sleep(0.002)
    return left


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
