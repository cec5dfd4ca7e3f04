"""What the helper process does, once it runs."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import msgspec
from vernal_contract import decoding

from vernal_worker import descriptors
from vernal_worker.checkpoint.cuda import messages, nvml, processes
from vernal_worker.checkpoint.cuda.driver import DriverError, bindings, call
from vernal_worker.checkpoint.cuda.layout import short
from vernal_worker.checkpoint.cuda.memory import Broker
from vernal_worker.checkpoint.cuda.messages import Cause
from vernal_worker.checkpoint.cuda.preparing import Preparation
from vernal_worker.checkpoint.cuda.transfer import DigestError
from vernal_worker.checkpoint.timings import Timings


class _Restoring:
    """Processes that the driver puts back while the helper hears other commands."""

    def __init__(self, command: messages.BeginRestore) -> None:
        self.pids = command.pids
        self.began = time.monotonic()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=[command], daemon=True)
        self._thread.start()

    def _run(self, command: messages.BeginRestore) -> None:
        try:
            processes.restore(command.pids, command.pairs)
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Raises: DriverError."""
        self._thread.join()
        if self._error is not None:
            raise self._error


class Helper:
    """Carries commands out, one after the other."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._restoring: _Restoring | None = None
        self._broker: Broker | None = None
        self._too_full = False

    def do(self, command: messages.AnyCommand) -> messages.AnyAnswer | None:
        match command:
            case messages.Find():
                return messages.Processes(pids=tuple(processes.with_cuda(command.pids)))
            case messages.Suspend():
                return self._suspend(command)
            case messages.BeginRestore():
                self._restoring = _Restoring(command)
                return None
            case messages.Restore():
                return self._restore(command)
            case messages.Check():
                room = _room(self._preparation.keep(command.ranks))
                self._too_full = bool(short(command.wanted, room.free))
                return room
            case messages.Load():
                if self._too_full:
                    return None
                if self._broker is not None:
                    self._broker.close()
                memory, directory = command.memory, Path(command.directory)
                self._broker = Broker(memory.ranks, directory, memory.piece, command.digests)
                self._broker.slots = self._preparation.slots(self._broker.wanted_slots)
                self._broker.start(Path(command.socket))
                return None
            case messages.WaitLoaded():
                assert self._broker is not None
                self._broker.wait()
                return messages.Done(seconds=self._broker.seconds, ended=self._broker.seconds.ended)

    def _restore(self, command: messages.Restore) -> messages.Done:
        begun, self._restoring = self._restoring, None
        if begun is None:
            return _timed(
                restore=lambda: processes.restore(command.pids, command.pairs),
                unlock=lambda: processes.unlock(command.pids),
            )
        try:
            processes.restore([pid for pid in command.pids if pid not in begun.pids], command.pairs)
        finally:
            begun.wait()  # none of them may be in the driver's hands when this is over
        timings = Timings()
        timings["restore"] = round(time.monotonic() - begun.began, 4)
        return _timed(timings, unlock=lambda: processes.unlock(command.pids))

    def _suspend(self, command: messages.Suspend) -> messages.AnyAnswer:
        try:
            return _timed(
                lock=lambda: processes.lock(command.pids, command.timeout),
                checkpoint=lambda: processes.checkpoint(command.pids),
            )
        except DriverError as error:
            problems = processes.undo(command.pids)
            return messages.Failed(message="; ".join([str(error), *problems]), undone=not problems)


def _room(contexts: int) -> messages.Room:
    """`contexts`: how many GPUs have one of this process's. Where all have, they say it, since NVML takes 7 ms and
    what it takes to load it. What a context takes is not free, nor is it where an engine comes to be beside it."""
    found = _of_contexts() if contexts and contexts == call("cuDeviceGetCount") else []
    found = found or nvml.memory(processes.gpus())
    return messages.Room(free=tuple(free for free, _ in found), total=tuple(total for _, total in found))


def _of_contexts() -> list[tuple[int, int]]:
    """Bytes free and in all of each GPU; empty where there was no room for a context."""
    found: list[tuple[int, int]] = []
    try:
        for number in range(call("cuDeviceGetCount")):
            device = call("cuDeviceGet", number)
            call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", device))
            found.append(call("cuMemGetInfo"))
            call("cuDevicePrimaryCtxRelease", device)
    except DriverError:
        return []
    return found


def _timed(before: Timings | None = None, /, **steps: Callable[[], None]) -> messages.Done:
    timings = before if before is not None else Timings()
    for name, step in steps.items():
        began = time.monotonic()
        step()
        timings[name] = round(time.monotonic() - began, 4)
    return messages.Done(seconds=timings, ended=timings.ended)


def _say(answer: messages.AnyAnswer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


def _read(lines: "SimpleQueue[bytes | None]") -> None:
    """At once, whatever is being done: digests of 60 GB do not fit into a pipe, and who sends them starts CRIU next."""
    received = b""
    try:
        while part := os.read(0, 1 << 20):
            *whole, received = (received + part).split(b"\n")
            for line in whole:
                lines.put(line)
    finally:
        lines.put(None)


def run(preparation: Preparation) -> None:
    """Carry out what stdin says until it ends."""
    descriptors.raise_limit()  # each allocation of each rank is one
    decode = decoding.json_decoder(messages.AnyCommand)
    helper = Helper(preparation)
    lines: SimpleQueue[bytes | None] = SimpleQueue()
    threading.Thread(target=_read, args=[lines], daemon=True).start()
    try:
        bindings()
        began = time.monotonic()
        preparation.wait_initialised()
        call("cuInit", 0)  # says what the first one said
        _say(messages.Ready(gpus=tuple(processes.gpus()), seconds=round(time.monotonic() - began, 4)))
    except (DriverError, ImportError, AttributeError) as error:
        _say(messages.Failed(message=str(error)))
        return
    while (line := lines.get()) is not None:
        try:
            if (answer := helper.do(decode(line))) is not None:
                _say(answer)
        except DigestError as error:
            _say(messages.Failed(message=str(error), cause=Cause.DIGEST))
        except OSError as error:
            message = f"{error.filename or 'weights'}: {error.strerror or error}"
            _say(messages.Failed(message=message, cause=Cause.STORAGE))
        except DriverError as error:
            _say(messages.Failed(message=str(error), cause=Cause.MEMORY if error.out_of_memory else Cause.DRIVER))
        except (AttributeError, RuntimeError) as error:  # the latter: no more threads
            _say(messages.Failed(message=str(error)))
