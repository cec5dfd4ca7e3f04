"""What comes in one piece with a request that offers another protocol."""

import asyncio

from patience import GUARD_SECONDS
from waker.world import Waker, Worker

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


async def test_what_comes_right_behind_an_offer_is_answered_or_not_taken(waker: Waker, worker: Worker) -> None:
    waker.lead(worker.target)
    reader, writer = await asyncio.open_connection("127.0.0.1", waker.port)
    writer.write(HEAD + OFFER + b"Content-Length: 5\r\n\r\nhello" + HEAD + b"Content-Length: 3\r\n\r\nend")
    async with asyncio.timeout(GUARD_SECONDS):
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 2 and (part := await reader.read(1 << 16)):
            answers += part
    writer.close()
