"""The control socket: what one side says arrives at the other, and nothing waits for ever."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from common.ports import free_port
from patience import GUARD_SECONDS, until
from vernal_worker import threads
from vernal_worker.control import protocol, server
from vernal_worker.control.client import (
    CallCancelledError,
    EngineClient,
    RefusedError,
    TimedOutError,
    UnreachableError,
)
from vernal_worker.control.protocol import Answer, AnyCommand
from vernal_worker.control.server import ControlServer

Handle = Callable[[AnyCommand, list[int]], Awaitable[Answer]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Handle], str]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    path = str(tmp_path / protocol.SOCKET_NAME)

    def start(handle: Handle) -> str:
        ControlServer(path, handle, loop).start()
        return path

    yield start
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_commands_and_answers_survive_the_wire(serve: Callable[[Handle], str]) -> None:
    seen: list[AnyCommand] = []

    async def handle(command: AnyCommand, _: list[int]) -> Answer:
        seen.append(command)
        match command:
            case protocol.GetStatus():
                return protocol.EngineStatus(serving=protocol.Serving.OPEN, in_flight=2, accepted_total=9)
            case protocol.RunCanary():
                return protocol.Canary(prompts=[[1, 2]], answers=[[3]])
            case protocol.GetMetrics():
                return protocol.Metrics(text="line one\nline two\n")
            case protocol.AbortAll():
                return protocol.Aborted(requests=3)
        return protocol.Done()

    client = EngineClient(serve(handle))
    pod = protocol.PodIdentity(name="p", ip="10.0.0.1")
    assert client.status(GUARD_SECONDS).in_flight == 2
    assert client.canary(GUARD_SECONDS).answers == [[3]]
    assert client.metrics(GUARD_SECONDS) == "line one\nline two\n"
    assert client.abort_all(GUARD_SECONDS).requests == 3
    client.resume(pod, {"KEY": "ä\n"}, GUARD_SECONDS)
    client._call(protocol.Shutdown(timeout=2.5), protocol.Done, GUARD_SECONDS)
    assert seen[-2:] == [protocol.Resume(pod=pod, secrets={"KEY": "ä\n"}), protocol.Shutdown(timeout=2.5)]


def test_a_command_that_is_larger_than_the_socket_s_buffer(serve: Callable[[Handle], str]) -> None:
    seen: list[AnyCommand] = []

    async def handle(command: AnyCommand, _: list[int]) -> Answer:
        seen.append(command)
        return protocol.Done()

    secrets = {"KEY": "x" * 5_000_000}
    EngineClient(serve(handle)).resume(protocol.PodIdentity(), secrets, GUARD_SECONDS)
    assert seen == [protocol.Resume(pod=protocol.PodIdentity(), secrets=secrets)]


def test_an_engine_that_reads_nothing_is_waited_for_only_so_long(tmp_path: Path) -> None:
    path = str(tmp_path / protocol.SOCKET_NAME)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()  # and never accepts
        with pytest.raises(TimedOutError):
            EngineClient(path).resume(protocol.PodIdentity(), {"KEY": "x" * 5_000_000}, 0.5)


def test_a_listening_socket_changes_hands(serve: Callable[[Handle], str]) -> None:
    handed: list[int] = []

    async def handle(command: AnyCommand, fds: list[int]) -> Answer:
        assert command == protocol.Listen(keep_alive=60.0, body_bytes=1 << 20)
        handed.extend(fds)
        return protocol.Done()

    client = EngineClient(serve(handle))
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as listener:
        client.listen(listener, 60.0, GUARD_SECONDS, 1 << 20)
    with socket.socket(fileno=handed[0]) as ours:
        assert ours.getsockname()[1] == port
        with socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS):
            ours.accept()[0].close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS)


def sockets() -> set[str]:
    """Of this process, in which the server is. Other descriptors come and go with what other tests have left."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.add(str(entry.readlink()))
    return {name for name in found if name.startswith("socket:")}


def copies(fd: int) -> int:
    """How many descriptors of this process, in which the server is, are of this file."""
    found, wanted = 0, os.fstat(fd)
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found += os.path.samestat(os.fstat(int(entry.name)), wanted)
    return found


def test_after_a_call_the_engine_holds_no_connection(serve: Callable[[Handle], str]) -> None:
    """A freeze follows such a call, and CRIU refuses a tree with a connection that leads out of it."""

    async def handle(_: AnyCommand, __: list[int]) -> Answer:
        return protocol.Done()

    path = serve(handle)
    before = sockets()
    for _ in range(50):
        EngineClient(path).wake(protocol.Wake(), GUARD_SECONDS)
        assert not sockets() - before


def test_a_failure_is_told_with_its_message(serve: Callable[[Handle], str]) -> None:
    async def handle(_: AnyCommand, __: list[int]) -> Answer:
        raise RuntimeError("a request is still running")

    with pytest.raises(RefusedError, match="Quiesce: RuntimeError: a request is still running"):
        EngineClient(serve(handle)).quiesce(GUARD_SECONDS)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="no engine"):
        EngineClient(str(tmp_path / "absent")).status(GUARD_SECONDS)


def test_a_hung_engine_is_waited_for_only_so_long(serve: Callable[[Handle], str]) -> None:
    async def handle(_: AnyCommand, __: list[int]) -> Answer:
        return await _never()

    with pytest.raises(TimedOutError):
        EngineClient(serve(handle)).status(timeout=0.5)


def test_a_call_can_be_given_up(serve: Callable[[Handle], str]) -> None:
    cancel = threading.Event()

    async def handle(_: AnyCommand, __: list[int]) -> Answer:
        cancel.set()
        return await _never()

    client = EngineClient(serve(handle), cancel)
    with pytest.raises(CallCancelledError):
        client.canary(GUARD_SECONDS)


async def _never() -> Answer:
    await asyncio.Event().wait()
    return protocol.Done()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b'{"command":"format_disk"}\n',
        b'{"command":"resume"}\n',
        b'{"command":"\xff"}\n',
        b'{"command":"leave","seconds_left":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n",
        b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b',"command":"status"}\n',
    ],
    ids=[
        "nothing",
        "no name",
        "another name",
        "a field too few",
        "no UTF-8",
        "lists without end",
        "and before its name",
    ],
)
def test_what_is_no_command_is_refused(serve: Callable[[Handle], str], line: bytes) -> None:
    """And the descriptors that came with it are closed."""

    async def handle(_: AnyCommand, __: list[int]) -> Answer:
        raise AssertionError

    sent = os.memfd_create("sent-along")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GUARD_SECONDS)
        connection.connect(serve(handle))
        if left := line[socket.send_fds(connection, [line], [sent, sent]) :]:
            connection.sendall(left)
        answer = protocol.decode_answer(connection.recv(10_000))
    assert isinstance(answer, protocol.Failed) and "not a command" in answer.message
    until("the descriptors to be closed", lambda: copies(sent) == 1)
    os.close(sent)


def test_half_a_command_costs_nothing(serve: Callable[[Handle], str]) -> None:
    async def handle(_: AnyCommand, __: list[int]) -> Answer:
        return protocol.Done()

    path = serve(handle)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(b'{"command":')
    EngineClient(path).wake(protocol.Wake(), GUARD_SECONDS)


def test_a_client_that_says_no_more_leaves_no_descriptor(
    serve: Callable[[Handle], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(_: AnyCommand, __: list[int]) -> Answer:
        return protocol.Done()

    monkeypatch.setattr(server, "_READ_TIMEOUT", 0.05)
    sent = os.memfd_create("sent-along")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GUARD_SECONDS)
        connection.connect(serve(handle))
        socket.send_fds(connection, [b'{"command":'], [sent, sent, sent])
        assert connection.recv(1) == b"", "the server hangs up"
    until("the descriptors to be closed", lambda: copies(sent) == 1)
    os.close(sent)


def test_an_answer_without_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_MESSAGE_BYTES", 1 << 20)
    path = str(tmp_path / protocol.SOCKET_NAME)
    sent: list[int] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            while sum(sent) < 64 << 20:
                sent.append(connection.send(b"[" * (1 << 16)))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UnreachableError, match="does not end"):
            EngineClient(path).status(GUARD_SECONDS)
        thread.join()
    assert sum(sent) < 4 << 20, "it was read no further"


@pytest.mark.parametrize("answer", [b'{"answer":"\xff"}\n', b'{"x":' + b"[" * 50_000], ids=["no UTF-8", "deep"])
def test_an_answer_that_is_none_is_one_of_the_call_s_errors(tmp_path: Path, answer: bytes) -> None:
    path = str(tmp_path / protocol.SOCKET_NAME)

    def say() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=say)
        thread.start()
        with pytest.raises(UnreachableError, match="is not understood"):
            EngineClient(path).status(GUARD_SECONDS)
        thread.join()


NO_DESCRIPTORS = """
import asyncio, os, resource, sys, threading
from vernal_worker import threads
from vernal_worker.control import protocol, server
from vernal_worker.control.server import ControlServer

async def handle(command, fds):
    return protocol.Done()

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
ControlServer(sys.argv[1], handle, loop).start()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    print("full", flush=True)
input()
for fd in held:
    os.close(fd)
input()
"""


def test_the_server_outlives_a_moment_without_descriptors(tmp_path: Path) -> None:
    path = str(tmp_path / protocol.SOCKET_NAME)
    with subprocess.Popen(
        [sys.executable, "-c", NO_DESCRIPTORS, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin and server.stdout and server.stderr
        assert server.stdout.readline() == "full\n"
        with socket.socket(socket.AF_UNIX) as connection:  # it waits to be accepted
            connection.connect(path)
            assert "cannot take a connection now" in server.stderr.readline()
        server.stdin.write("\n")
        server.stdin.flush()
        EngineClient(path).wake(protocol.Wake(), GUARD_SECONDS)
        server.communicate("\n", timeout=GUARD_SECONDS)


def test_work_on_a_thread_begins_again_when_it_fails() -> None:
    told: list[str] = []
    done = threading.Event()

    def work() -> None:
        if len(told) < 2:
            raise ValueError("planted")
        done.set()

    threads.keep_running("planted", work, lambda name, error: told.append(f"{name}: {error}"), pause=0.0)
    assert done.wait(GUARD_SECONDS), "the work was not begun again"
    assert told == ["planted: planted"] * 2 and threads.failures["planted"] == 2
