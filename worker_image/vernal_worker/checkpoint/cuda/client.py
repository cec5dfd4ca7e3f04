"""The supervisor's side of the helper process."""

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint.cuda import launch, messages
from vernal_worker.checkpoint.cuda.layout import Memory
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.timings import Timings

DRIVER = 570
"""Major version of the oldest driver that can move a process between GPUs (CUDA 12.8)."""

LOCK_TIMEOUT = 10.0
_START_TIMEOUT = 30.0
_SLICE = 0.05

_REASONS = {
    messages.Cause.MEMORY: Reason.GPU_MEMORY_INSUFFICIENT,
    messages.Cause.DIGEST: Reason.DIGEST_MISMATCH,
    messages.Cause.STORAGE: Reason.STORE_UNAVAILABLE,
}

_A = TypeVar("_A", bound=messages.Answer)
_answers: Callable[[bytes], messages.AnyAnswer] = decoding.json_decoder(messages.AnyAnswer)


class OnGpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a thaw must know of the CUDA side of a frozen tree."""

    pids: tuple[int, ...]  # processes that use CUDA
    holders: tuple[int, ...] = ()  # those of them that had much on a GPU besides `memory`
    gpus: tuple[str, ...]  # UUIDs of all GPUs that they saw, in CUDA's order
    memory: Memory | None = None  # None: all of it is in the processes' images
    bytes: tuple[int, ...] = ()  # of GPU memory that they had, by GPU; empty if nobody could tell


class CudaHelper:
    """The helper process, from the constructor until `close`. Calls are made by one thread at a time; every one is
    bounded. Errors are of stage `cuda`."""

    def __init__(self, cancel: threading.Event | None = None) -> None:
        """Starts the process, if `launch` has not yet, and does not wait for it. `cancel`: calls end with
        `THAW_GIVEN_UP` when it is set."""
        self._cancel = cancel
        self._process = launch.take()
        self._ready: messages.Ready | None = None
        self._asked = False
        self._received = b""
        self.restoring = False
        """Whether `begin_restore` was called, and `restore` not yet."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def gpus(self) -> tuple[str, ...]:
        """UUIDs of the GPUs here, in CUDA's order.

        Raises: CheckpointError: `CUDA_RESTORE_FAILED`: no GPU can be used.
        """
        if self._ready is None:
            self._ready = self._answer(messages.Ready, "cuInit", Reason.CUDA_RESTORE_FAILED, _START_TIMEOUT)
        return self._ready.gpus

    def users(self, pids: Sequence[int]) -> tuple[int, ...]:
        """Those of `pids` that use CUDA."""
        self.gpus()
        return self._call(
            messages.Find(pids=tuple(pids)), messages.Processes, "find", Reason.CUDA_CHECKPOINT_FAILED, LOCK_TIMEOUT
        ).pids

    def suspend(self, pids: Sequence[int], timeout: float) -> Timings:
        """Take processes off the GPUs; returns seconds by step.

        Raises: CheckpointError: `CUDA_CHECKPOINT_FAILED`; they run as before, unless it says `tree_intact=False`.
        """
        self.gpus()
        command = messages.Suspend(pids=tuple(pids), timeout=min(timeout, LOCK_TIMEOUT))
        failed, slow = Reason.CUDA_CHECKPOINT_FAILED, Reason.FREEZE_TIMEOUT
        return self._timed(command, "checkpoint", failed, timeout, slow)

    def begin_restore(self, on: OnGpu) -> None:
        """Begin to put `on.holders` back; `restore` goes on from there. Returns at once.

        Raises: CheckpointError: `CUDA_RESTORE_FAILED`: the process has ended; `HOST_MISMATCH`: as `restore`.
        """
        command = messages.BeginRestore(pids=on.holders, pairs=self._pairs(on))
        self._send(command, "restore", Reason.CUDA_RESTORE_FAILED)
        self.restoring = True

    def restore(self, on: OnGpu, timeout: float) -> Timings:
        """Put processes back on GPUs: the ones they were on, or, in CUDA's order, the ones that are here.

        Raises: CheckpointError: `CUDA_RESTORE_FAILED`, `GPU_MEMORY_INSUFFICIENT`, `THAW_TIMEOUT`, or `HOST_MISMATCH`:
            they saw another number of GPUs.
        """
        command = messages.Restore(pids=on.pids, pairs=self._pairs(on))
        self.restoring = False
        failed, slow = Reason.CUDA_RESTORE_FAILED, Reason.THAW_TIMEOUT
        return self._timed(command, "restore", failed, timeout, slow)

    def _pairs(self, on: OnGpu) -> tuple[tuple[str, str], ...]:
        here = self.gpus()
        if len(here) != len(on.gpus):
            message = f"gpuCount: the frozen processes saw {len(on.gpus)} GPUs, this worker sees {len(here)}"
            raise CheckpointError(Reason.HOST_MISMATCH, "cuda", message)
        return tuple(zip(on.gpus, here, strict=True)) if on.gpus != here else ()

    def ask_room(self, wanted: Sequence[int], ranks: int = 0) -> None:
        """Begin to find out how much memory the GPUs have free. If that is less than `wanted` (bytes by GPU, in CUDA's
        order), a `load` of so many `ranks` that follows makes nothing. Returns at once.

        Raises: CheckpointError: `CUDA_RESTORE_FAILED`: the process has ended.
        """
        self._send(messages.Check(wanted=tuple(wanted), ranks=ranks), "room", Reason.CUDA_RESTORE_FAILED)
        self._asked = True

    def room(self) -> messages.Room:
        """What `ask_room` found out; empty if nobody can tell.

        Raises: CheckpointError: `CUDA_RESTORE_FAILED`: no GPU can be used.
        """
        self.gpus()
        self._asked = False
        return self._answer(messages.Room, "room", Reason.CUDA_RESTORE_FAILED, LOCK_TIMEOUT)

    def load(self, socket: Path, directory: Path, memory: Memory, digests: Sequence[Sequence[str]] | None) -> None:
        """Begin to bring stored GPU memory back; the engine fetches it at `socket`. Returns at once, whatever happens:
        `wait_loaded` says what did.

        Args:
            digests: of each rank's pieces, None to trust the storage.
        """
        command = messages.Load(
            socket=str(socket),
            directory=str(directory),
            memory=memory,
            digests=tuple(map(tuple, digests)) if digests is not None else None,
        )
        self._send(command, "load", Reason.CUDA_RESTORE_FAILED)

    def wait_loaded(self, timeout: float) -> Timings:
        """Until it is on the GPU and verified; returns seconds by step.

        Raises: CheckpointError: stage `weights`: `DIGEST_MISMATCH`, `STORE_UNAVAILABLE`, `STORE_SLOW` (time-out),
            `GPU_MEMORY_INSUFFICIENT` or `CUDA_RESTORE_FAILED`.
        """
        try:
            self.gpus()
            return self._timed(messages.WaitLoaded(), "load", Reason.CUDA_RESTORE_FAILED, timeout, Reason.STORE_SLOW)
        except CheckpointError as error:
            error.stage = "weights"
            raise

    def close(self) -> bool:
        """End the process and wait for it: what was not fetched from it is gone then, and its GPU memory free. Twice is
        fine. False: the driver does not let go of it."""
        return launch.end(self._process)

    def _timed(self, command: messages.Command, what: str, reason: Reason, timeout: float, slow: Reason) -> Timings:
        done = self._call(command, messages.Done, what, reason, timeout, slow)
        return Timings(done.seconds, done.ended)

    def _call(
        self,
        command: messages.Command,
        wanted: type[_A],
        what: str,
        reason: Reason,
        timeout: float,
        slow: Reason | None = None,
    ) -> _A:
        if self._asked:  # its answer comes first
            self.room()
        self._send(command, what, reason)
        return self._answer(wanted, what, reason, timeout, slow)

    def _send(self, command: messages.Command, what: str, reason: Reason) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._gone(reason, what) from error

    def _answer(self, wanted: type[_A], what: str, reason: Reason, timeout: float, slow: Reason | None = None) -> _A:
        line = self._line(what, reason, timeout, slow or reason)
        answer = _answers(line)
        if isinstance(answer, messages.Failed):
            reason = _REASONS.get(answer.cause, reason)
            raise CheckpointError(reason, "cuda", answer.message, tree_intact=answer.undone)
        if not isinstance(answer, wanted):
            raise CheckpointError(Reason.INTERNAL, "cuda", f"{what}: answered with {type(answer).__name__}")
        return answer

    def _line(self, what: str, reason: Reason, timeout: float, slow: Reason) -> bytes:
        """The next answer. Several may come at once, because not every command is waited for before the next."""
        assert self._process.stdout is not None
        fd, deadline = self._process.stdout.fileno(), time.monotonic() + timeout
        while b"\n" not in self._received:
            if self._cancel is not None and self._cancel.is_set():
                raise CheckpointError(Reason.THAW_GIVEN_UP, "cuda", "cancelled", tree_intact=False)
            if time.monotonic() > deadline:
                raise CheckpointError(slow, "cuda", f"{what}: not done after {timeout:.3g} s", tree_intact=False)
            if select.select([fd], [], [], _SLICE)[0]:
                part = os.read(fd, 1 << 20)
                if not part:
                    raise self._gone(reason, what)
                self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _gone(self, reason: Reason, what: str) -> CheckpointError:
        try:
            code: int | None = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        message = f"{what}: the CUDA helper process ended with exit code {code}; its lines are in this log"
        return CheckpointError(reason, "cuda", message, tree_intact=False)


def driver_problem(driver: str | None) -> str | None:
    """Why a driver version such as "550.54.14" cannot be used; None if it can, or if there is no GPU."""
    if driver is None or int(driver.partition(".")[0]) >= DRIVER:
        return None
    return f"NVIDIA driver {driver}; {DRIVER} or newer is needed to freeze and thaw processes that use a GPU"
