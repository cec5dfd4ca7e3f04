"""A program to freeze: threads, children, pipes, sockets, timers, shared memory, deleted files, ballast.

It answers one line of JSON a connection on a Unix socket (argv[1]), as the engine's control socket does. Everything
it says is computed by asking its parts, so that a part that did not survive makes the answer wrong or missing.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

ADDRESS, BALLAST_MIB = sys.argv[1], int(sys.argv[2])
IO_URING_SETUP = 425
INHERITED = len([n for n in range(3, 1000) if Path(f"/proc/self/fd/{n}").exists()])


class Child:
    """A child process that echoes over two pipes, and its own child that echoes over a socket pair."""

    def __init__(self) -> None:
        self.down, self.up = os.pipe(), os.pipe()
        self.near, self.far = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            if os.fork() == 0:
                while data := self.far.recv(100):
                    self.far.sendall(b"grandchild " + data)
                os._exit(0)
            while data := os.read(self.down[0], 100):
                os.write(self.up[1], b"child " + data)
            os._exit(0)

    def ask(self, data: bytes) -> list[str]:
        os.write(self.down[1], data)
        self.near.sendall(data)
        return [os.read(self.up[0], 100).decode(), self.near.recv(100).decode()]


class Loopback:
    """A TCP connection from this process to itself."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.near = socket.create_connection(self.listener.getsockname())
        self.far, _ = self.listener.accept()

    def ask(self, data: bytes) -> str:
        self.near.sendall(data)
        return self.far.recv(100).decode()


class Shared:
    """Shared memory as vLLM and loky leave it: a big sparse segment; a file reached by a name that is gone; a deleted
    one; two names of one file."""

    def __init__(self) -> None:
        fd = os.open("/dev/shm/psm_subject", os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(fd, 64 << 20)
        self.sparse = mmap.mmap(fd, 64 << 20)
        self.sparse[: 4 << 10] = b"a" * (4 << 10)
        self.sparse[32 << 20 : (32 << 20) + 5] = b"hello"
        os.close(fd)
        fd = os.open("/dev/shm/temporary", os.O_CREAT | os.O_RDWR, 0o600)
        os.write(fd, b"semaphore".ljust(4096, b"\0"))
        os.link("/dev/shm/temporary", "/dev/shm/sem.subject")
        Path("/dev/shm/temporary").unlink()
        self.renamed = mmap.mmap(fd, 4096)
        os.close(fd)
        fd = os.open("/dev/shm/deleted", os.O_CREAT | os.O_RDWR, 0o600)
        os.write(fd, b"ghost".ljust(4096, b"\0"))
        Path("/dev/shm/deleted").unlink()
        self.deleted = mmap.mmap(fd, 4096)

    def ask(self) -> list[str]:
        with open("/dev/shm/sem.subject", "r+b") as f:  # the other name must still be the same file
            f.write(b"SEM")
        return [
            self.sparse[32 << 20 : (32 << 20) + 5].decode(),
            self.sparse[:3].decode(),  # not all of it: reading a hole of a mapped tmpfs file fills it
            self.renamed[:9].decode(),
            self.deleted[:5].decode(),
        ]


class Ticks:
    """A thread that counts, an interval timer that counts, and a thread blocked in a read for ever."""

    def __init__(self) -> None:
        self.thread = self.timer = 0
        self.blocked = os.pipe()
        for target in (self.count, lambda: os.read(self.blocked[0], 1)):
            threading.Thread(target=target, daemon=True).start()
        signal.signal(signal.SIGALRM, self.alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)

    def count(self) -> None:
        while True:
            time.sleep(0.01)
            self.thread += 1

    def alarm(self, *_: object) -> None:
        self.timer += 1

    def ask(self) -> list[bool]:
        """Whether each of them moves."""
        before = (self.thread, self.timer)
        while not (self.thread > before[0] and self.timer > before[1]):  # who asks has a time-out
            time.sleep(0.005)
        return [self.thread > before[0], self.timer > before[1]]


class Subject:
    def __init__(self) -> None:
        self.child, self.loopback, self.shared, self.ticks = Child(), Loopback(), Shared(), Ticks()
        self.ballast = bytearray(os.urandom(1 << 20) * BALLAST_MIB)
        self.zeros = bytearray(b"\1" * (32 << 20))  # memory that was used and is all zeros again
        self.zeros[:] = bytes(32 << 20)
        self.held: list[Any] = []
        self.count = 0

    def state(self) -> dict[str, Any]:
        """What must be equal before and after a thaw, and a count of how often it was asked for."""
        self.count += 1
        return {
            "count": self.count,
            "pid": os.getpid(),
            "child": self.child.ask(b"hi"),
            "loopback": self.loopback.ask(b"hi"),
            "shared": self.shared.ask(),
            "ticks": self.ticks.ask(),
            "ballast": zlib.crc32(self.ballast),
            "zeros": zlib.crc32(self.zeros),
        }

    def say(self, text: str, where: str = "stdout") -> None:
        print(text, file=getattr(sys, where), flush=True)

    def io_uring(self) -> int:
        """errno of io_uring_setup(2)."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(IO_URING_SETUP, 8, ctypes.create_string_buffer(120))
        self.held.append(fd)
        return ctypes.get_errno() if fd < 0 else 0

    def connect(self, path: str) -> None:
        """Hold a connection that leads out of the tree."""
        self.held.append(socket.socket(socket.AF_UNIX))
        self.held[-1].connect(path)

    def dial(self, address: str, port: int) -> None:
        """Hold a TCP connection."""
        self.held.append(socket.create_connection((address, port)))

    def disconnect(self) -> None:
        self.held.pop().close()

    def fork(self, how: str) -> int:
        """Leave a process behind: `child` stays under this one; `stray` loses its parent, but not the session."""
        ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            if how == "stray" and os.fork():
                os._exit(0)
            os.write(ready[1], str(os.getpid()).encode())
            while True:
                time.sleep(100)
        if how == "stray":
            os.waitpid(pid, 0)
        return int(os.read(ready[0], 20))

    def ignored(self) -> list[str]:
        """Which signals were ignored when this program started, of those that matter."""
        status = Path("/proc/self/status").read_text()
        mask = int(status.partition("SigIgn:")[2].split()[0], 16)
        return [s.name for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD) if mask >> (s - 1) & 1]

    def process(self) -> dict[str, Any]:
        """What it was given: descriptors (the first three and how many others before any was opened), and so on."""
        return {
            "descriptors": [str(Path(f"/proc/self/fd/{n}").readlink()).partition(":")[0] for n in (0, 1, 2)],
            "inherited": INHERITED,
            "environment": dict(os.environ),
            "cwd": str(Path.cwd()),
            "session": os.getsid(0),
        }

    def open(self, path: str) -> None:
        """Keep a file open and write to it."""
        self.held.append(open(path, "w+"))  # noqa: SIM115
        self.held[-1].write("written before")
        self.held[-1].flush()

    def append(self, text: str) -> str:
        """Write to the file opened last; returns all of it."""
        self.held[-1].write(text)
        self.held[-1].seek(0)
        return self.held[-1].read()

    def exit(self, code: int) -> None:
        os._exit(code)


def main() -> None:
    subject = Subject()
    server = socket.socket(socket.AF_UNIX)
    server.bind(ADDRESS)
    server.listen()
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as f:
            name, *arguments = json.loads(f.readline())
            f.write(json.dumps(getattr(subject, name)(*arguments)) + "\n")


main()
