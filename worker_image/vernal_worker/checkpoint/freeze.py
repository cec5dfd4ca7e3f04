"""Write a running process tree into a directory and leave it running."""

import errno
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import carry as carrying
from vernal_worker.checkpoint import ghosts, mapped, process, procfs, surroundings
from vernal_worker.checkpoint.carry import SHM
from vernal_worker.checkpoint.criu import TICK, Criu, Patience, find
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.hook import GO, STOP, Hook
from vernal_worker.checkpoint.images import take_out
from vernal_worker.checkpoint.tree import ProcessTree

GHOST_LIMIT = "512M"
"""Largest deleted file that is still open or mapped in the tree (CRIU takes it into the image)."""


@dataclass(frozen=True)
class _Looked:
    """What was seen of the tree while it stood still."""

    areas: dict[int, list[procfs.FileArea]]
    mounts: tuple[str, ...]


STOP_GRACE = 15.0
"""How long CRIU may take to undo a dump that is given up, in seconds; then it is killed, and the tree with
it."""


@dataclass(frozen=True)
class FreezeResult:
    """What was frozen. `timings`: seconds by step: `criu` (which holds `files`), `files`, `images`, `total`."""

    timings: dict[str, float]
    pids: tuple[int, ...]
    pipes: tuple[str, ...]  # CRIU's names of the stdio pipes, e.g. "pipe:[4711]"
    files: tuple[str, ...]  # carried files, e.g. /dev/shm/psm_1234
    mounts: tuple[str, ...]  # mount points that the tree has files open on
    bytes: int  # of everything in the directory


def freeze(
    tree: ProcessTree,
    image_dir: Path,
    *,
    criu: str = "criu",
    timeout: float,
    work_dir: Path,
    cancel: threading.Event | None = None,
    carry: Sequence[Path] = (SHM,),
    since: float | None = None,
) -> FreezeResult:
    """Dump `tree` into `image_dir` (made if absent, else empty) and let it run on.

    Whoever must be quiet is quiet already: no connection leads out of the tree (the control connection
    included), no CUDA state is on a device. CUDA goes around this call: lock and checkpoint every CUDA
    process, freeze, then restore and unlock, whether or not the freeze worked.

    Args:
        criu: program name or path.
        timeout: for the whole call; giving up takes up to `STOP_GRACE` more, usually milliseconds.
        work_dir: local directory, not `noexec`, for CRIU's log (`dump.log`); made if absent.
        cancel: set it from another thread to give up.
        carry: directories whose whole content belongs to the tree and is laid back before a thaw: elsewhere
            they are empty. Files and directories that the tree has open, mapped or bound sockets in must be
            in one of them, in the container's image, or on a volume that every pod mounts.
        since: when this container was started, to refuse by name what of it no other pod has; None to leave that to
            whoever thaws.

    Raises:
        CheckpointError: `CRIU_MISSING`, `CRIU_DUMP_FAILED`, `SHM_FAILED`, `STORE_FULL`, `FREEZE_TIMEOUT`,
            `STORE_UNAVAILABLE`, `FREEZE_GIVEN_UP` (cancelled), `FILES_NOT_CARRIED`, `CONNECTIONS_OPEN`.
            The tree runs on (but see `CheckpointError.tree_intact`), no `link_remap.*` is left behind; what is in
            `image_dir` is worthless.
    """
    started = time.monotonic()
    patience = Patience(timeout, cancel, Reason.FREEZE_TIMEOUT, Reason.FREEZE_GIVEN_UP)
    program = find(criu)
    timings: dict[str, float] = {}
    try:
        images = image_dir / process.IMAGES
        patience.run(lambda: images.mkdir(parents=True))
        work_dir.mkdir(parents=True, exist_ok=True)
        frozen, looked = _run(tree, program, image_dir, work_dir, carry, since, patience, timings)
        before = time.monotonic()

        def finish() -> int:
            ghosts.move(images, surroundings.shared(carry))
            memory = take_out(images, image_dir, patience.check)
            seen, used = mapped.collect(images, looked.areas), mapped.code(looked.areas)
            process.write(image_dir, msgspec.structs.replace(frozen, memory=memory, mapped=seen, code=used))
            return sum(p.stat().st_size for p in image_dir.rglob("*") if p.is_file())

        size = patience.run(finish)
        timings["images"] = time.monotonic() - before
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = Reason.STORE_FULL if full else Reason.STORE_UNAVAILABLE
        raise CheckpointError(reason, "files", f"{e.filename or image_dir}: {e.strerror}") from e
    timings["total"] = time.monotonic() - started
    return FreezeResult(
        timings=timings,
        pids=frozen.pids,
        pipes=(frozen.stdout, frozen.stderr),
        files=tuple(f.path for f in frozen.files),
        mounts=looked.mounts,
        bytes=size,
    )


def _run(
    tree: ProcessTree,
    program: str,
    image_dir: Path,
    work_dir: Path,
    carry: Sequence[Path],
    since: float | None,
    patience: Patience,
    timings: dict[str, float],
) -> tuple[process.Frozen, _Looked]:
    """Run CRIU, and undo what it did if anything goes wrong."""
    before = carrying.contents(carry)
    with Hook(work_dir, "post-dump") as hook:
        run = Criu(
            program,
            "dump",
            [
                *("--tree", str(tree.pid), "--images-dir", str(image_dir / process.IMAGES), "--leave-running"),
                *("--ghost-limit", GHOST_LIMIT, "--action-script", str(hook.script)),
            ],
            work_dir=work_dir,
        )
        try:
            return _dump(tree, run, hook, image_dir, carry, since, patience, timings)
        except BaseException as e:
            hook.answer(STOP)
            undone = run.stop(STOP_GRACE)
            if isinstance(e, CheckpointError):
                e.tree_intact = undone and tree.poll() is None
            raise
        finally:
            carrying.remove(carrying.link_remaps(carrying.contents(carry) - before))


def _dump(
    tree: ProcessTree,
    run: Criu,
    hook: Hook,
    image_dir: Path,
    carry: Sequence[Path],
    since: float | None,
    patience: Patience,
    timings: dict[str, float],
) -> tuple[process.Frozen, _Looked]:
    """Wait for CRIU, and take the files while the tree stands still."""
    started = time.monotonic()
    looked = _Looked({}, ())
    frozen: process.Frozen | None = None
    while (code := run.wait(TICK, hook.asked)) is None:
        patience.check()
        if frozen is None and hook.is_asked():
            before = time.monotonic()
            files = patience.run(lambda: carrying.collect(carry, image_dir / process.DATA, patience.check))
            frozen = _describe(tree, carry, files)
            if since is not None:
                surroundings.check(frozen.pids, carry, since)
            areas = {pid: procfs.file_areas(pid) for pid in frozen.pids}
            looked = _Looked(areas, surroundings.used(frozen.pids, carry))
            timings["files"] = time.monotonic() - before
            hook.answer(GO)
    timings["criu"] = time.monotonic() - started
    if code != 0 or frozen is None:
        error = run.failure(Reason.CRIU_DUMP_FAILED)
        if "No space left on device" in error.message or "Disk quota exceeded" in error.message:
            error.reason = Reason.STORE_FULL
        raise error
    return frozen, looked


def _describe(tree: ProcessTree, carry: Sequence[Path], files: Sequence[carrying.Carried]) -> process.Frozen:
    """What a thaw must know. The tree stands still."""
    found = tree.processes()
    if strays := found.keys() - tree.descendants():
        names = ", ".join(f"{pid} ({found[pid].comm})" for pid in sorted(strays))
        raise CheckpointError(
            Reason.CRIU_DUMP_FAILED,
            "criu",
            f"processes whose parent has died cannot be frozen with the tree: {names}",
        )
    threads = {tid for pid in found for tid in procfs.threads(pid)}
    return process.Frozen(
        root=tree.pid,
        pids=tuple(sorted(found)),
        ids=tuple(sorted(threads | {i for p in found.values() for i in (p.pid, p.pgid, p.sid)})),
        stdout=_pipe_name(tree.stdout),
        stderr=_pipe_name(tree.stderr),
        roots=tuple(map(str, carry)),
        files=tuple(files),
    )


def _pipe_name(fd: int) -> str:
    return f"pipe:[{os.fstat(fd).st_ino}]"
