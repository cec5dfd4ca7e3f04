"""What supervisor and helper say to each other: a line of JSON each way, over the helper's stdin and stdout."""

from enum import StrEnum

import msgspec

from vernal_worker.checkpoint.cuda.layout import Memory


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="do", forbid_unknown_fields=True):
    pass


class Find(Command, frozen=True, kw_only=True, tag="find"):
    """Which of `pids` use CUDA? Answered by `Processes`."""

    pids: tuple[int, ...]


class Suspend(Command, frozen=True, kw_only=True, tag="suspend"):
    """Lock and checkpoint; if that fails, everything is undone first. Answered by `Done` or `Failed`."""

    pids: tuple[int, ...]
    timeout: float


class Restore(Command, frozen=True, kw_only=True, tag="restore"):
    """Restore and unlock `pids`, also those with which a `BeginRestore` began. Answered by `Done` or `Failed`."""

    pids: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...]


class BeginRestore(Command, frozen=True, kw_only=True, tag="begin_restore"):
    """Begin to restore some of the processes of the `Restore` that follows. Not answered."""

    pids: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...]


class Check(Command, frozen=True, kw_only=True, tag="check"):
    """Is there so much room? Answered by `Room`. If not, a `Load` that follows does nothing."""

    wanted: tuple[int, ...]  # bytes by GPU, in CUDA's order
    ranks: int = 0  # whose memory that `Load` brings: on so many GPUs a context is needed


class Load(Command, frozen=True, kw_only=True, tag="load"):
    """Begin to make and fill GPU memory, which ranks fetch at `socket`. Not answered: see `WaitLoaded`."""

    socket: str
    directory: str
    memory: Memory
    digests: tuple[tuple[str, ...], ...] | None


class WaitLoaded(Command, frozen=True, kw_only=True, tag="wait_loaded"):
    """Answered by `Done` or `Failed` when the memory of the `Load` before is filled and verified."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="answer", forbid_unknown_fields=True):
    pass


class Ready(Answer, frozen=True, kw_only=True, tag="ready"):
    """Sent first, unasked."""

    gpus: tuple[str, ...]  # UUIDs in hex, in CUDA's order
    seconds: float  # for cuInit, besides what the imports took


class Processes(Answer, frozen=True, kw_only=True, tag="processes"):
    pids: tuple[int, ...]


class Done(Answer, frozen=True, kw_only=True, tag="done"):
    seconds: dict[str, float]  # by step
    ended: dict[str, float]  # as in `Timings`


class Room(Answer, frozen=True, kw_only=True, tag="room"):
    """Bytes by GPU, in CUDA's order; both empty if nobody can tell."""

    free: tuple[int, ...] = ()
    total: tuple[int, ...] = ()


class Cause(StrEnum):
    """What a failure is about."""

    DRIVER = "Driver"
    MEMORY = "Memory"  # the GPU has too little that is free
    DIGEST = "Digest"  # the storage's bytes are wrong
    STORAGE = "Storage"  # the storage cannot be read


class Failed(Answer, frozen=True, kw_only=True, tag="failed"):
    message: str
    cause: Cause = Cause.DRIVER
    undone: bool = True  # of `Suspend`: whether the processes run as before


AnyCommand = Find | Suspend | BeginRestore | Restore | Check | Load | WaitLoaded
AnyAnswer = Ready | Processes | Done | Room | Failed
