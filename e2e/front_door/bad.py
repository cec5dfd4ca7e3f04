"""Clients that do something wrong, in a process inside the worker's network: `python -m front_door.bad PID SECONDS`.

Each kind runs on a thread of its own, over and over. Prints one line of JSON at the end: by kind, how often, how many
connections it made, and what went wrong with the client itself, with which it exits with 1.
"""

import contextlib
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from front_door.good import enter_network

SERVING, ADMIN = 8000, 9100
PATIENCE = 120.0


_kind = threading.local()
connected: Counter[str] = Counter()


def connect(port: int = SERVING) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connected[_kind.name] += 1
    return connection


def post(body: bytes, path: str = "/v1/completions", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


def completion(tokens: int, stream: bool = True) -> bytes:
    return post(
        json.dumps(
            {"model": "tiny", "prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": stream}
        ).encode()
    )


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def slow_reader(draw: random.Random) -> None:
    with connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.sendall(completion(400))
        for _ in range(draw.randint(5, 20)):
            connection.recv(16)
            time.sleep(0.5)


def deaf(draw: random.Random) -> None:
    with connect() as connection:
        connection.sendall(completion(900) * 3)
        time.sleep(draw.uniform(5, 20))


def vanishes(draw: random.Random) -> None:
    connection = connect()
    connection.sendall(completion(200, stream=draw.random() < 0.5))
    time.sleep(draw.uniform(0, 0.3))
    reset(connection)


def half_header(draw: random.Random) -> None:
    held = [connect() for _ in range(20)]
    for connection in held:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost:"[: draw.randint(1, 36)])
    time.sleep(draw.uniform(5, 30))
    for connection in held:
        connection.close()


def half_body(draw: random.Random) -> None:
    with connect() as connection:
        connection.sendall(post(b'{"model": "tiny', length=1000))
        time.sleep(draw.uniform(1, 30))


def burst(draw: random.Random) -> None:
    held: list[socket.socket] = []
    with contextlib.suppress(OSError):
        for _ in range(1100):
            held.append(connect(SERVING if draw.random() < 0.9 else ADMIN))
    time.sleep(draw.uniform(0, 3))
    for connection in held:
        connection.close()
    time.sleep(5)


def nonsense(draw: random.Random) -> None:
    texts = [
        post(b"{"),
        post(b"[]"),
        post(b'{"model": "tiny", "prompt": 7}'),
        post(b'{"model": "absent", "prompt": "x"}'),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        draw.randbytes(5000),
    ]
    with connect() as connection:
        connection.sendall(draw.choice(texts))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def large_header(draw: random.Random) -> None:
    with connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000_000)
    time.sleep(10)


def large_body(draw: random.Random) -> None:
    text = b'{"model": "tiny", "prompt": "' + b"x" * 200_000_000 + (b'"}' if draw.random() < 0.5 else b"")
    with connect() as connection:
        connection.sendall(post(text))
        connection.recv(1 << 16)
    time.sleep(30)


def cancelled_stream(draw: random.Random) -> None:
    with connect() as connection:
        connection.sendall(completion(500))
        for _ in range(draw.randint(1, 5)):
            connection.recv(4096)


def admin_nonsense(draw: random.Random) -> None:
    lengths = ["-1", "abc", "400000000", "9" * 400]
    with connect(ADMIN) as connection:
        connection.sendall(f"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: {draw.choice(lengths)}\r\n\r\n".encode())
        connection.sendall(bytes(1 << 20))
        while connection.recv(1 << 16):
            pass
    time.sleep(0.5)


KINDS: list[Callable[[random.Random], None]] = [
    slow_reader, slow_reader, deaf, vanishes, half_header, half_body, burst, nonsense, large_header, large_body,
    cancelled_stream, admin_nonsense,
]  # fmt: skip


def main() -> None:
    pid, seconds = int(sys.argv[1]), float(sys.argv[2])
    enter_network(pid)
    done: Counter[str] = Counter()
    failed: dict[str, str] = {}
    until = time.monotonic() + seconds

    def again(number: int, kind: Callable[[random.Random], None]) -> None:
        draw, _kind.name = random.Random(number), kind.__name__
        try:
            while time.monotonic() < until:
                with contextlib.suppress(OSError):  # what the worker does to them is what they are for
                    kind(draw)
                done[kind.__name__] += 1
                time.sleep(0.1)
        except Exception as error:
            failed[kind.__name__] = repr(error)

    threads = [threading.Thread(target=again, args=pair) for pair in enumerate(KINDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"done": done, "connected": connected, "failed": failed}), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
