"""The control socket, both ends: whatever comes over it, the answer is one of the protocol's, and the next call
works."""

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from fuzz.documents import changed, damaged, text, texts
from fuzz.limits import bounded
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from patience import GUARD_SECONDS, until
from vernal_worker.control import protocol
from vernal_worker.control.client import ControlError, EngineClient
from vernal_worker.control.protocol import Answer, AnyCommand
from vernal_worker.control.server import ControlServer

COMMANDS: list[dict[str, Any]] = [
    msgspec.to_builtins(command)
    for command in (
        protocol.GetStatus(),
        protocol.WarmUp(seconds=5.0),
        protocol.StoreWeights(directory="/d", piece=1 << 26),
        protocol.Quiesce(),
        protocol.Wake(source=protocol.FromHelper(socket="/s")),
        protocol.Resume(pod=protocol.PodIdentity(name="p"), secrets={"A": "b"}),
        protocol.Listen(),
        protocol.Leave(seconds_left=3.0),
        protocol.AbortAll(seconds=1.0),
        protocol.OpenApi(path="/a"),
        protocol.Shutdown(timeout=1.0),
    )
]
ANSWERS: list[dict[str, Any]] = [
    msgspec.to_builtins(answer)
    for answer in (
        protocol.EngineStatus(serving=protocol.Serving.OPEN, in_flight=1, accepted_total=2),
        protocol.Canary(prompts=[[1]], answers=[[2]], margins=[[0.5]]),
        protocol.Warmed(seconds={"plain": 1.0}),
        protocol.Stored(ranks=[protocol.StoredRank(file="r", segments=[("weights", 1)], digests=["0"])]),
        protocol.Aborted(requests=1),
        protocol.Metrics(text="a 1\n"),
        protocol.Done(),
        protocol.Failed(message="m"),
    )
]
lines = texts(st.sampled_from(COMMANDS)).map(lambda line: line + b"\n")


@PROFILE
@given(texts(st.sampled_from(COMMANDS) | st.sampled_from(ANSWERS)))
def test_a_message_is_refused_or_means_the_same_after_writing_it(data: bytes) -> None:
    for decode in (protocol.decode_command, protocol.decode_answer):
        with bounded():
            try:
                message = decode(data)
            except msgspec.DecodeError:
                continue
            assert decode(protocol.encode(message)) == message


async def _handle(command: AnyCommand, fds: list[int]) -> Answer:
    for fd in fds:
        os.close(fd)
    return protocol.Done()


@cache
def _server() -> str:
    """The socket of a server that stays for the rest of this process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="fuzz-loop", daemon=True).start()
    path = str(Path(tempfile.mkdtemp(prefix="vernal-fuzz-")) / protocol.SOCKET_NAME)
    ControlServer(path, _handle, loop).start()
    return path


def _copies(fd: int) -> int:
    """How many descriptors of this process, in which the server is, are of this file."""
    found, wanted = 0, os.fstat(fd)
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found += os.path.samestat(os.fstat(int(entry.name)), wanted)
    return found


@PROFILE
@given(
    lines | lines.flatmap(damaged) | st.lists(lines, min_size=2, max_size=3).map(b"".join),
    st.integers(0, 6),
    st.lists(st.integers(1, 200), max_size=3),
)
def test_the_server_answers_or_hangs_up_and_takes_the_next_call(data: bytes, fds: int, cuts: list[int]) -> None:
    """In one piece or in several, with file descriptors that nobody asked for."""
    path, sent_along = _server(), os.memfd_create("sent-along")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GUARD_SECONDS)
        connection.connect(path)
        with suppress(OSError):  # it may have hung up already
            if data:
                first = data[: cuts[0]] if cuts else data
                sent = socket.send_fds(connection, [first], [sent_along] * fds) if fds else connection.send(first)
                connection.sendall(data[sent:])
            connection.shutdown(socket.SHUT_WR)
        answer = _rest(connection)
    if answer:
        found = protocol.decode_answer(answer)
        refused = isinstance(found, protocol.Failed) and "not a command" in found.message
        assert refused or isinstance(found, protocol.Done)
    else:
        assert not data.split(b"\n", 1)[1:] or data[-1:] != b"\n", "a whole line has an answer"
    EngineClient(path).wake(protocol.Wake(), GUARD_SECONDS)
    until("the descriptors to be closed", lambda: _copies(sent_along) == 1)
    os.close(sent_along)


def _rest(connection: socket.socket) -> bytes:
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@contextmanager
def _engine(answer: bytes) -> Iterator[str]:
    """An engine that answers one call with these bytes."""
    with tempfile.TemporaryDirectory(prefix="vernal-fuzz-") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(directory) / "s")
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionError):
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()


@PROFILE
@given(st.sampled_from(ANSWERS).flatmap(changed).map(text) | texts(st.sampled_from(ANSWERS)))
def test_an_answer_is_one_or_a_control_error(answer: bytes) -> None:
    with _engine(answer) as path:
        try:
            status = EngineClient(path).status(GUARD_SECONDS)
        except ControlError:
            return
    assert protocol.decode_answer(protocol.encode(status)) == status
