"""CRIU's images: messages of protobuf with their lengths, after two magic numbers (https://criu.org/Images).

protobuf's wire format: https://protobuf.dev/programming-guides/encoding. What is not known goes through unchanged.
"""

import struct
from collections.abc import Iterable, Iterator

MAGIC = 0x54564319  # IMG_COMMON_MAGIC


class UnknownFormatError(Exception):
    """An image is not as its reader knows it."""


def image(magic: int, found: Iterable[bytes]) -> bytes:
    """What `messages` reads."""
    return b"".join((struct.pack("<II", MAGIC, magic), *map(framed, found)))


def messages(data: bytes, magic: int) -> list[bytes]:
    """Raises: UnknownFormatError: it is no image of this kind, or an empty one."""
    if data[:8] != struct.pack("<II", MAGIC, magic):
        raise UnknownFormatError
    found, at = list[bytes](), 8
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if not found:
        raise UnknownFormatError
    return found


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values. Raises: UnknownFormatError."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(message, at)
        elif tag & 7 == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise UnknownFormatError
        yield tag >> 3, value


def integers(message: bytes) -> dict[int, int]:
    """Of the fields that are numbers, by number; of a repeated one the last. Raises: UnknownFormatError."""
    return {number: value for number, value in fields(message) if isinstance(value, int)}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data):
            raise UnknownFormatError
        byte = data[at]
        result |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return result, at


def field(number: int, value: int | bytes) -> bytes:
    """What `fields` reads."""
    if isinstance(value, int):
        return _as_varint(number << 3) + _as_varint(value)
    return _as_varint(number << 3 | 2) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


def framed(message: bytes) -> bytes:
    return struct.pack("<I", len(message)) + message
