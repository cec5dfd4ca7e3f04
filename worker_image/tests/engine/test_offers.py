"""A client that offers another protocol, as Java's own does where nothing is encrypted, is served by HTTP/1.1."""

import time
from typing import Any

import pytest
from served import Served
from test_connections import open_one, rest

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("split", ["whole", "behind the header", "in the body", "byte by byte"])
def test_the_body_of_a_request_with_an_offer_is_read(served: Served, split: str, framing: str) -> None:
    served.gate._app = echo
    body = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"  # which is no request
    if framing == "length":
        head, sent = b"Content-Length: %d\r\n" % len(body), body
    else:
        head, sent = b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = HEAD + OFFER + head + b"\r\n"
    data = head + sent
    ends = {"whole": [], "behind the header": [len(head)], "in the body": [len(head) + 5]}
    pieces = ends.get(split, list(range(1, len(data))))
    connection = open_one(served)
    for start, end in zip([0, *pieces], [*pieces, len(data)], strict=True):
        connection.sendall(data[start:end])
        time.sleep(0.05 if split != "byte by byte" else 0.002)
    connection.sendall(HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nend")
    answers = rest(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == 2 and body in answers and answers.endswith(b"end"), answers


def test_what_comes_behind_the_last_request_is_nothing(served: Served) -> None:
    """As without an offer: after a request that ends the connection, uvicorn reads no more."""
    served.gate._app = echo
    connection = open_one(served)
    head = HEAD + OFFER.replace(b"Connection: ", b"Connection: close, ") + b"Content-Length: 3\r\n\r\n"
    connection.sendall(head + b"endmore")
    answers = rest(connection)
    assert answers.startswith(b"HTTP/1.1 200 OK") and answers.endswith(b"end"), answers
