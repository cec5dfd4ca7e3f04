"""Those who read and write blocks: threads that take jobs until there is nobody who could give them any.

They run in processes of their own (`vernal_worker.kv.processes`), in which neither torch nor vLLM is imported; where
storage is a test's, in the engine's process.
"""

import os
import socket
import traceback
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple, Protocol

from vernal_worker.kv.blockfile import BlockError, Failure
from vernal_worker.kv.blockstore import BlockStore, Saved
from vernal_worker.kv.jobs import Answer, Job, framed, unpacked

_PATIENCE_SECONDS = 0.05
"""A job that takes longer is answered in parts: the engine counts how long storage says nothing."""

_MESSAGE_BYTES = 65_536

Reader = Callable[[str, bytes, memoryview, bool], bytes]
"""(request, key, into, verify): fills `into` with the block, or raises `BlockError`. Returns the digest that it must
have, and has where it is to be verified."""
Writer = Callable[[bytes, memoryview, bool], Saved]
"""(key, payload, replace): what `BlockStore.write` does."""
View = Callable[[int], memoryview]
"""The memory of a slot."""


class Outcome(NamedTuple):
    """What became of a block; see `jobs.Answer`."""

    outcome: str
    message: str = ""
    bug: bool = False
    digest: bytes = b""


class Work(Protocol):
    stops: bool
    """Whether the blocks of a job behind one that went wrong are left out."""

    def do(self, job: Job, index: int, slot: memoryview) -> Outcome:
        """Read or write one block. Raises nothing."""

    def after(self, job: Job) -> None:
        """The job is answered: what nobody waits for. Raises nothing."""


class Reads:
    stops = True

    def __init__(self, read: Reader, used: Callable[[bytes], None] = lambda key: None) -> None:
        self._read = read
        self._used = used

    def do(self, job: Job, index: int, slot: memoryview) -> Outcome:
        try:
            digest = self._read(job.request, job.key(index), slot, job.verify)
        except BlockError as error:
            return Outcome(error.failure, str(error))
        except Exception:
            return Outcome(Failure.INTERNAL, traceback.format_exc(), bug=True)
        return Outcome("", digest=b"" if job.verify else digest)

    def after(self, job: Job) -> None:
        for index in range(len(job)):
            self._used(job.key(index))


class Writes:
    stops = False

    def __init__(self, write: Writer) -> None:
        self._write = write

    def do(self, job: Job, index: int, slot: memoryview) -> Outcome:
        try:
            return Outcome(self._write(job.key(index), slot, index in job.replace))
        except OSError as error:
            return Outcome(Saved.FAILED, str(error))
        except Exception:
            return Outcome(Saved.FAILED, traceback.format_exc(), bug=True)

    def after(self, job: Job) -> None:
        return


def reads_of(store: BlockStore) -> Reads:
    return Reads(lambda request, key, into, verify: store.fetch(key, into, verify=verify), store.used)


def writes_of(store: BlockStore) -> Writes:
    return Writes(store.write)


def serve(jobs: socket.socket, answers: int, view: View, work: Work) -> None:
    """Take jobs and do them, until the other end of `jobs` is closed or nobody listens to `answers`.

    Any number of threads and processes may share both.
    """
    try:
        while message := jobs.recv(_MESSAGE_BYTES):
            job = unpacked(message)
            _do(job, answers, view, work)
            work.after(job)
    except (OSError, RuntimeError):
        return  # the engine has let go of its ends, or of the slots


def _do(job: Job, answers: int, view: View, work: Work) -> None:
    done: list[Outcome] = []
    start = monotonic()
    for index in range(len(job)):
        done.append(work.do(job, index, view(job.slot + index)))
        if done[-1].outcome and work.stops:
            done += [Outcome(Failure.SKIPPED)] * (len(job) - index - 1)
            break
        now = monotonic()
        if now - start > _PATIENCE_SECONDS and index + 1 < len(job):
            os.write(answers, framed(_answer(job, done, now - start)))
            done, start = [], now
    os.write(answers, framed(_answer(job, done, monotonic() - start)))


def _answer(job: Job, done: Sequence[Outcome], seconds: float) -> Answer:
    said = [some for some in done if some.message]
    return Answer(
        job.number,
        [some.outcome for some in done],
        said[-1].message if said else "",
        said[-1].bug if said else False,
        seconds,
        b"".join(some.digest for some in done),
    )
