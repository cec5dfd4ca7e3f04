"""Reading /state from workers that are slow, wrong or hostile: real HTTP on loopback."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from vernal_contract.state import Phase, WorkerState, encode
from vernal_operator.observe.workers import MAX_BYTES, Answer, Target, Workers

STATE = encode(WorkerState(pod="p", namespace="ns", pool="pool", revision="r", phase=Phase.READY, ready=True))


class Peer:
    """Accepts on a loopback address and answers each connection with `data`, piece by piece, `pause` s apart."""

    def __init__(self, address: str, port: int, *data: bytes, pause: float = 0.0) -> None:
        self._socket = socket.create_server((address, port))
        self.port = self._socket.getsockname()[1]
        self.connections = 0
        self._data, self._pause = data, pause
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                for piece in self._data:
                    connection.sendall(piece)
                    time.sleep(self._pause)
            except OSError:
                pass

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which holds it
        self._socket.close()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
def workers() -> Iterator[Workers]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    reader = Workers(port, timeout=0.5)
    reader.test_port = port  # type: ignore[attr-defined]
    yield reader
    reader.close()


def ask(workers: Workers, *peers: bytes, pause: float = 0.0, address: str = "127.0.0.1", restarts: int = 0) -> Answer:
    peer = Peer(address, workers.test_port, *peers, pause=pause)  # type: ignore[attr-defined]
    done = threading.Event()
    workers.ask([Target("uid", restarts, "pod", address)], done.set)
    assert done.wait(5)
    peer.close()
    answer = workers.answer("uid", restarts)
    assert answer is not None, "asked, answer or not"
    return answer


def test_an_answer_is_kept_with_its_time(workers: Workers) -> None:
    before = time.time()
    answer = ask(workers, ok(STATE))
    assert answer.worker is not None and answer.worker.ready
    assert answer.answered_at == answer.polled_at >= before


@pytest.mark.parametrize(
    "data",
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2/\r\nContent-Length: 0\r\n\r\n",),
        (ok(b"{}"),),
        (ok(b"not json"),),
        (ok(b"x" * (MAX_BYTES + 1)),),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", STATE[:10]),
        (b"garbage\r\n\r\n",),
        (),
    ],
    ids=["500", "redirect", "other schema", "no json", "too large", "cut off", "no http", "closed"],
)
def test_what_is_no_answer_counts_as_asked(workers: Workers, data: tuple[bytes, ...]) -> None:
    answer = ask(workers, *data)
    assert answer.worker is None and answer.answered_at is None


def test_a_redirect_is_not_followed(workers: Workers) -> None:
    other = Peer("127.0.0.2", workers.test_port, ok(STATE))  # type: ignore[attr-defined]
    target = f"http://127.0.0.2:{other.port}/state".encode()
    ask(workers, b"HTTP/1.1 307 Go\r\nLocation: " + target + b"\r\nContent-Length: 0\r\n\r\n")
    assert other.connections == 0
    other.close()


def test_the_time_out_covers_a_worker_that_drips(workers: Workers) -> None:
    started = time.monotonic()
    answer = ask(workers, *([b"HTTP/1.1 200 OK\r\n"] + [b"X: y\r\n"] * 100), pause=0.1)
    assert answer.worker is None
    assert time.monotonic() - started < 2


def test_an_answer_outlives_a_read_that_failed_but_not_a_restart(workers: Workers) -> None:
    first = ask(workers, ok(STATE))
    second = ask(workers, ok(b"{}"))
    assert second.worker == first.worker and second.polled_at > first.polled_at
    assert second.answered_at == first.answered_at
    assert workers.answer("uid", 1) is None
    third = ask(workers, ok(b"{}"), restarts=1)
    assert third.worker is None
    workers.forget("uid")
    assert workers.answer("uid", 1) is None


def test_who_is_being_asked_is_not_asked_again(workers: Workers) -> None:
    peer = Peer("127.0.0.1", workers.test_port, b"", pause=1.0)  # type: ignore[attr-defined]
    done = [threading.Event(), threading.Event()]
    for event in done:
        workers.ask([Target("uid", 0, "pod", "127.0.0.1")], event.set)
    assert done[0].wait(5) and not done[1].is_set()
    assert peer.connections == 1
    peer.close()


def test_many_are_asked_at_once() -> None:
    count, pause = 60, 0.3
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    peers = [Peer(f"127.0.1.{n}", port, b"", ok(STATE), pause=pause) for n in range(1, count + 1)]
    workers, done = Workers(port, timeout=10.0), threading.Event()
    started = time.monotonic()
    workers.ask([Target(f"u{n}", 0, "pod", f"127.0.1.{n}") for n in range(1, count + 1)], done.set)
    assert done.wait(20)
    answers = [workers.answer(f"u{n}", 0) for n in range(1, count + 1)]
    assert all(answer is not None and answer.worker is not None for answer in answers)
    assert time.monotonic() - started < count * pause / 2, "one after the other"
    workers.close()
    for peer in peers:
        peer.close()
