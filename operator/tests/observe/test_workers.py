"""Reading /state from workers that are slow, wrong or hostile: real HTTP on loopback."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat

import pytest
from common.ports import free_port
from patience import GUARD_SECONDS, until
from vernal_contract.state import Phase, WorkerState, encode
from vernal_operator.observe import workers as workers_module
from vernal_operator.observe.answers import MAX_BYTES
from vernal_operator.observe.workers import Answer, Target, Workers

STATE = encode(WorkerState(pod="p", namespace="ns", pool="pool", revision="r", phase=Phase.READY, ready=True))


class Peer:
    """Accepts on a loopback address and answers each connection with `data`, piece by piece, each of them when `wait`
    has returned."""

    def __init__(self, address: str, port: int, data: Iterable[bytes], wait: Callable[[], object] = int) -> None:
        self._socket = socket.create_server((address, port))
        self.address, self.port = self._socket.getsockname()
        self.connections = 0
        self._data, self._wait = data, wait
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
                    self._wait()
                    connection.sendall(piece)
            except OSError:
                pass

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which holds it
        self._socket.close()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def long_answer(size: int) -> bytes:
    """One that could be read, of so many bytes."""
    padding = size - len(STATE.replace(b"{", b'{"invented":"",', 1))
    return STATE.replace(b"{", b'{"invented":"%s",' % (b"x" * padding), 1)


@pytest.fixture
def workers() -> Iterator[Workers]:
    reader = Workers(free_port(), timeout=GUARD_SECONDS)
    yield reader
    reader.close()


def ask(workers: Workers, *data: bytes, address: str = "127.0.0.1", restarts: int = 0) -> Answer:
    return ask_peer(workers, Peer(address, workers._port, data), restarts)


def ask_peer(workers: Workers, peer: Peer, restarts: int = 0) -> Answer:
    done = threading.Event()
    workers.ask([Target("uid", restarts, "pod", peer.address)], done.set)
    assert done.wait(GUARD_SECONDS)
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
        (ok(STATE.replace(b'"r"', b'"\xff"')),),
        (ok(STATE.replace(b"{", b'{"invented":' + b"[" * 30_000 + b"]" * 30_000 + b",", 1)),),
        (ok(long_answer(MAX_BYTES + 1)),),
        (ok(long_answer(MAX_BYTES * 2)),),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", STATE[:10]),
        (b"garbage\r\n\r\n",),
        (),
    ],
    ids=[
        "500",
        "redirect",
        "other schema",
        "no json",
        "no text",
        "no end",
        "one byte too large",
        "twice as large",
        "cut off",
        "no http",
        "closed",
    ],
)
def test_what_is_no_answer_counts_as_asked(workers: Workers, data: tuple[bytes, ...]) -> None:
    answer = ask(workers, *data)
    assert answer.worker is None and answer.answered_at is None


def test_the_largest_answer_is_read(workers: Workers) -> None:
    assert ask(workers, ok(long_answer(MAX_BYTES))).worker is not None


def test_a_redirect_is_not_followed(workers: Workers) -> None:
    other = Peer("127.0.0.2", workers._port, [ok(STATE)])
    target = f"http://127.0.0.2:{other.port}/state".encode()
    ask(workers, b"HTTP/1.1 307 Go\r\nLocation: " + target + b"\r\nContent-Length: 0\r\n\r\n")
    assert other.connections == 0
    other.close()


def test_the_time_out_covers_a_worker_that_drips(workers: Workers) -> None:
    """It would go on for ever."""
    impatient = Workers(workers._port, timeout=0.5)
    drips = chain([b"HTTP/1.1 200 OK\r\n"], repeat(b"X: y\r\n"))
    answer = ask_peer(impatient, Peer("127.0.0.1", workers._port, drips, lambda: time.sleep(0.01)))
    assert answer.worker is None
    impatient.close()


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


def test_an_answer_that_comes_after_the_pod_is_gone_is_dropped(workers: Workers) -> None:
    asked, gate, done = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        gate.wait(GUARD_SECONDS)

    held = Peer("127.0.0.1", workers._port, (ok(STATE),), hold)
    workers.ask([Target("uid", 0, "pod", "127.0.0.1")], done.set)
    assert asked.wait(GUARD_SECONDS)
    workers.forget("uid")
    gate.set()
    assert done.wait(GUARD_SECONDS)
    held.close()
    assert workers.answer("uid", 0) is None


def test_an_answer_about_an_earlier_container_does_not_replace_that_of_a_later_one(workers: Workers) -> None:
    later = ask(workers, ok(STATE), restarts=1)
    peer = Peer("127.0.0.1", workers._port, (ok(STATE),))
    done = threading.Event()
    workers.ask([Target("uid", 0, "pod", "127.0.0.1")], done.set)
    assert done.wait(GUARD_SECONDS)
    peer.close()
    assert workers.answer("uid", 1) == later and workers.answer("uid", 0) is None


def test_who_is_being_asked_is_not_asked_again(workers: Workers) -> None:
    answers = threading.Event()
    peer = Peer("127.0.0.1", workers._port, [ok(STATE)], answers.wait)
    done = [threading.Event(), threading.Event()]
    for event in done:
        workers.ask([Target("uid", 0, "pod", "127.0.0.1")], event.set)
    answers.set()
    assert done[0].wait(GUARD_SECONDS) and not done[1].is_set()
    assert peer.connections == 1
    peer.close()


def test_many_are_asked_at_once() -> None:
    """Nobody answers before all have been asked."""
    count = 60
    together = threading.Barrier(count, timeout=GUARD_SECONDS)
    port = free_port()
    peers = [Peer(f"127.0.1.{n}", port, [ok(STATE)], together.wait) for n in range(1, count + 1)]
    workers, done = Workers(port, timeout=GUARD_SECONDS), threading.Event()
    workers.ask([Target(f"u{n}", 0, "pod", f"127.0.1.{n}") for n in range(1, count + 1)], done.set)
    assert done.wait(GUARD_SECONDS)
    answers = [workers.answer(f"u{n}", 0) for n in range(1, count + 1)]
    assert all(answer is not None and answer.worker is not None for answer in answers)
    workers.close()
    for peer in peers:
        peer.close()


def test_who_waits_for_a_place_is_asked_before_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many workers as are asked at once never answer. They are few: each must be reached in its time."""
    monkeypatch.setattr(workers_module, "CONCURRENCY", 2)
    silent = Peer("127.0.0.1", 0, (b"",), threading.Event().wait)
    reader = Workers(silent.port, timeout=2.0)
    done = threading.Event()
    reader.ask([Target(f"uid-{number}", 0, "pod", silent.address) for number in range(6)], done.set)
    assert done.wait(GUARD_SECONDS)
    until("each to be counted", lambda: silent.connections == 6)
    silent.close()
    reader.close()
