"""Taking processes off their GPUs and putting them back: the driver's checkpoint API (CUDA 12.8, driver 570)."""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from vernal_worker.checkpoint.cuda.driver import DriverError, bindings, call


def gpus() -> list[str]:
    """UUIDs of the GPUs that this process sees, in CUDA's order, in hex. `cuInit` was called."""
    return [
        bytes(call("cuDeviceGetUuid", call("cuDeviceGet", number)).bytes).hex()
        for number in range(call("cuDeviceGetCount"))
    ]


def with_cuda(pids: Sequence[int]) -> list[int]:
    """Those of `pids` that have initialised CUDA."""

    def has_state(pid: int) -> bool:
        try:
            call("cuCheckpointProcessGetState", pid)
        except DriverError:
            return False
        return True

    return [pid for pid in pids if has_state(pid)]


def lock(pids: Sequence[int], timeout: float) -> None:
    """Let no process submit work any more, and wait until what it has submitted is done.

    Raises: DriverError: e.g. CUDA_ERROR_NOT_READY: work went on for `timeout` seconds. Others may be locked.
    """

    def one(pid: int) -> None:
        arguments = bindings().CUcheckpointLockArgs()
        arguments.timeoutMs = int(timeout * 1000)
        call("cuCheckpointProcessLock", pid, arguments)

    _each(pids, one)


def checkpoint(pids: Sequence[int]) -> None:
    """Copy what is on the GPUs to host memory of the (locked) processes, and let go of the GPUs.

    Raises: DriverError: others may be checkpointed.
    """
    _each(pids, lambda pid: call("cuCheckpointProcessCheckpoint", pid, bindings().CUcheckpointCheckpointArgs()))


def restore(pids: Sequence[int], pairs: Sequence[tuple[str, str]]) -> None:
    """Undo `checkpoint`. `pairs`: for every GPU that the processes saw, its UUID and that of the one to use now; empty
    for the same GPUs.

    Raises: DriverError: others may be restored.
    """

    def one(pid: int) -> None:
        driver = bindings()
        arguments = driver.CUcheckpointRestoreArgs()
        if pairs:
            arguments.gpuPairs = [_pair(old, new) for old, new in pairs]
            arguments.gpuPairsCount = len(pairs)
        call("cuCheckpointProcessRestore", pid, arguments)

    _each(pids, one)


def unlock(pids: Sequence[int]) -> None:
    """Undo `lock`.

    Raises: DriverError: others may be unlocked.
    """
    _each(pids, lambda pid: call("cuCheckpointProcessUnlock", pid, bindings().CUcheckpointUnlockArgs()))


def undo(pids: Sequence[int]) -> list[str]:
    """Bring every process back to where it runs, whatever its state is; returns what could not be undone."""
    problems = []
    states = bindings().CUprocessState
    for pid in pids:
        try:
            if call("cuCheckpointProcessGetState", pid) == states.CU_PROCESS_STATE_CHECKPOINTED:
                restore([pid], [])
            if call("cuCheckpointProcessGetState", pid) == states.CU_PROCESS_STATE_LOCKED:
                unlock([pid])
        except DriverError as error:
            problems.append(f"PID {pid}: {error}")
    return problems


def _pair(old: str, new: str) -> object:
    pair = bindings().CUcheckpointGpuPair()
    data = bytes.fromhex(old) + bytes.fromhex(new)  # the whole struct; the bindings cannot set a UUID's bytes
    ctypes.memmove(int(pair.getPtr()), data, len(data))
    return pair


def _each(pids: Sequence[int], work: Callable[[int], None]) -> None:
    """All at once: ranks may wait for each other. The first error is raised when all have ended."""
    if not pids:
        return
    with ThreadPoolExecutor(len(pids)) as pool:
        futures = [pool.submit(work, pid) for pid in pids]
    for future in futures:
        future.result()
