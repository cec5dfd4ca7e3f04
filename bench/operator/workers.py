"""`GET /state` of ten thousand workers in one process: one port, and for each an address of its own in 127.0.0.0/8."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import time
from collections.abc import Sequence
from multiprocessing.sharedctypes import Synchronized
from typing import Any


def address(number: int) -> str:
    """Of the `number`th worker."""
    number += 1 << 16
    return f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def number_of(address: str) -> int:
    _, high, middle, low = map(int, address.split("."))
    return (high << 16 | middle << 8 | low) - (1 << 16)


class Workers:
    """`asked[n]` is when the nth worker was first asked, in the time of `time.monotonic`; 0.0 before that."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        context = multiprocessing.get_context("fork")
        self.asked: Any = context.Array("d", len(answers), lock=False)
        self._reads: Synchronized[int] = context.Value("q", 0, lock=False)
        self._given_up: Synchronized[int] = context.Value("q", 0, lock=False)
        self._socket = socket.create_server(("0.0.0.0", 0), backlog=4096)
        self.port: int = self._socket.getsockname()[1]
        self._process = context.Process(target=self._serve, args=(answers,), daemon=True)
        self._process.start()
        self._socket.close()

    @property
    def reads(self) -> int:
        return int(self._reads.value)

    @property
    def given_up(self) -> int:
        """Connections that were closed without a question."""
        return int(self._given_up.value)

    def forget(self) -> None:
        """As if none was asked yet."""
        for number in range(len(self.asked)):
            self.asked[number] = 0.0

    def close(self) -> None:
        self._process.terminate()
        self._process.join()

    def _serve(self, answers: Sequence[bytes]) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        asyncio.run(self._answer(answers))

    async def _answer(self, answers: Sequence[bytes]) -> None:
        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                self._given_up.value += 1
                writer.close()
                return
            number = number_of(writer.get_extra_info("sockname")[0])
            self._reads.value += 1
            if not self.asked[number]:
                self.asked[number] = time.monotonic()
            body = answers[number]
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(one, sock=self._socket)
        await server.serve_forever()
