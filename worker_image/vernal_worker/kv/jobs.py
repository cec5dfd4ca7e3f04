"""What the engine's process and those that read and write for it say to one another. Pure.

A job is one message of a socket that keeps messages apart, so that whoever is free takes one. Answers come through a
pipe, each written at once and short enough not to be mixed with another: what is there is taken with one call.
"""

import struct
from collections.abc import Iterator, Sequence

import msgspec

KEY_BYTES = 32
MOST_BLOCKS = 64
"""In a job, so that its answer fits."""

LABEL = 100
"""How many characters of a request's name a job has: for faults that hit some requests and not others."""

_MOST_TEXT = 800  # bytes: an answer is shorter than PIPE_BUF, which is what a pipe takes as a whole
_LENGTH = struct.Struct("<H")


class Job(msgspec.Struct, array_like=True, frozen=True):
    """Blocks to read into adjacent slots, or to write from there.

    Attributes:
        number: names it in its answers.
        request: whose, in short; see `LABEL`.
        slot: the first block's. The others are in those behind it.
        keys: of all blocks, one after the other.
        replace: blocks, by their place in the job, to write although there is a file.
        verify: whether whoever reads compares the blocks' bytes with their digests. Else the answer has the digests.
    """

    number: int
    request: str
    slot: int
    keys: bytes
    replace: tuple[int, ...] = ()
    verify: bool = True

    def key(self, index: int) -> bytes:
        return self.keys[index * KEY_BYTES : (index + 1) * KEY_BYTES]

    def __len__(self) -> int:
        return len(self.keys) // KEY_BYTES


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """What became of the next blocks of a job. One that takes long has several answers.

    Attributes:
        outcomes: of one block each, in their order: empty for one that was read, else a `blockfile.Failure`, or a
            `blockstore.Saved`.
        message: why, of the last that went wrong.
        bug: whether the message is a traceback.
        seconds: spent on these blocks.
        digests: that the blocks must have which were read, one after the other; none where they were verified.
    """

    number: int
    outcomes: list[str]
    message: str = ""
    bug: bool = False
    seconds: float = 0.0
    digests: bytes = b""


# What both ends are of one version of. The classes are looked into here, before there are threads.
_encode = msgspec.msgpack.Encoder().encode
_job = msgspec.msgpack.Decoder(Job).decode  # noqa: TID251
_answer = msgspec.msgpack.Decoder(Answer).decode  # noqa: TID251


def packed(job: Job) -> bytes:
    return _encode(job)


def unpacked(message: bytes) -> Job:
    return _job(message)


def framed(answer: Answer) -> bytes:
    if len(answer.message) > _MOST_TEXT // 4:
        text = answer.message.encode(errors="replace")[-_MOST_TEXT:].decode(errors="ignore")
        answer = msgspec.structs.replace(answer, message=text)
    message = _encode(answer)
    return _LENGTH.pack(len(message)) + message


def unframed(data: bytes | bytearray) -> tuple[list[Answer], int]:
    """The answers that are whole, and how many bytes they take."""
    answers: list[Answer] = []
    start = 0
    while start + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, start)
        end = start + _LENGTH.size + length
        if end > len(data):
            break
        answers.append(_answer(memoryview(data)[start + _LENGTH.size : end]))
        start = end
    return answers, start


def parts(count: int, most: int) -> Iterator[slice]:
    """`count` things in parts of `most` at most."""
    return (slice(start, min(start + most, count)) for start in range(0, count, most))


def joined(keys: Sequence[bytes]) -> bytes:
    return b"".join(keys)
