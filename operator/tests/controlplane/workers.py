"""Workers as processes: the real HTTP server of a worker (`vernal_worker.engine`), with a small application for vLLM,
and its `/state`. Each is a fork of this process, which has imported everything. Commands are JSON lines on stdin,
answers are lines on stdout.

A request is JSON: `id`, which is written to the worker's log of what it was asked, and `wait`, a file without which the
answer stays incomplete.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

PIECES = 5
PROPAGATION_SECONDS = 0.3
DRAIN_SECONDS = 60.0


class Workers:
    """The process that workers are forked from. Not thread-safe."""

    def __init__(self, admin_port: int, asked: Path) -> None:
        """`asked`: where workers write the ids of requests, a line each."""
        self._admin_port, self._asked = admin_port, asked
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def start(self, address: str, state: bytes) -> int:
        """Returns its process id once it listens."""
        assert self._process.stdin is not None and self._process.stdout is not None
        command = {
            "address": address, "admin_port": self._admin_port, "asked": str(self._asked), "state": state.decode()
        }  # fmt: skip
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        said = {self._process.stdout.readline(), self._process.stdout.readline()}  # by parent and child, in any order
        (pid,) = {int(line.split()[0]) for line in said}
        assert said == {f"{pid}\n", f"{pid} listens\n"}
        return pid

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=300)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- in the worker's process ---


async def _application(asked: int, scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    request = json.loads(body)
    os.write(asked, f"{request['id']}\n".encode())
    seen = [(b"x-seen-" + name, value) for name, value in scope["headers"] if name in (b"traceparent", b"tracestate")]
    headers = [(b"content-type", b"text/event-stream"), *seen]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(PIECES):
        piece = f"data: {request['id']} {number}\n\n".encode()
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        while number == 0 and (wait := request.get("wait")) and not os.path.exists(wait):  # noqa: ASYNC110, ASYNC240, PTH110
            await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _work(command: dict[str, Any]) -> None:
    from vernal_contract import names
    from vernal_contract.state import Load, decode, encode
    from vernal_worker.engine.gate import Gate
    from vernal_worker.engine.http import HttpServer

    asked = os.open(command["asked"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    state, began = decode(command["state"].encode()), time.monotonic()
    gate = Gate(partial(_application, asked))
    http = HttpServer(gate)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    async def admin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        places = 8
        load = Load(running=gate.in_flight, pressure=gate.in_flight / places, idle_seconds=round(gate.idle_seconds, 3))
        uptime = state.uptime + time.monotonic() - began
        now = msgspec.structs.replace(
            state,
            uptime=uptime,
            in_flight=gate.in_flight,
            accepted_total=gate.accepted_total,
            load=load,
            ready=not told.is_set(),
        )
        body = encode(now)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    await asyncio.start_server(admin, command["address"], command["admin_port"])
    listener = socket.create_server((command["address"], names.PORT_SERVING), backlog=2048)
    await http.listen(listener.detach(), 60.0)
    print(f"{os.getpid()} listens", flush=True)
    await told.wait()
    http.leave(DRAIN_SECONDS)
    await asyncio.sleep(PROPAGATION_SECONDS)
    http.stop_listening()
    await asyncio.sleep(PROPAGATION_SECONDS)  # whoever was just connecting gets an answer
    while gate.in_flight:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    await http.close(5.0)


def _serve() -> None:
    import uvloop
    import vernal_worker.engine.http  # noqa: F401

    run: Callable[[Awaitable[None]], None] = uvloop.run  # type: ignore[assignment]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(_work(command))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    _serve()
