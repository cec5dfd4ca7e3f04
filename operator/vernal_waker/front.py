"""HTTP: takes requests on one port a pool, holds them, hands them on to a worker and its answer back.

A request is read whole, and sent whole on a connection of its own: so it can be sent again as long as nothing of it was
done, and no connection to a worker is ever found closed by it. Answers are streamed.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from aiohttp import HttpVersion11, hdrs, web
from vernal_contract import names
from yarl import URL

from vernal_waker import metrics, relay
from vernal_waker.admission import Admission, Refusal, Ticket
from vernal_waker.connections import HEADER_BYTES, Connection, Places, error_body
from vernal_waker.pools import GoneError, LeavingError, Pool, Pools

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
BODY_SECONDS = 60.0
"""For the next piece of a request's body."""
BODY_RATE = 1 << 10
RATE_SECONDS = BODY_SECONDS
"""Bytes a second that a body brings on average, once RATE_SECONDS are over. As a worker has it."""
WRITE_SECONDS = 300.0
"""For a client to take the next piece of its answer. As a worker has it."""
PARTING_SECONDS = 1.0
"""At the end of a drain, for those to be told who still wait."""
CONNECT_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 900.0
"""Longer than clients and proxies keep theirs, so that it is they who close: a request that meets a connection which is
being closed is lost. What the Service leads here no longer is closed after the next answer."""
BACKLOG = 2048
_HEADERS: Any = {"max_line_size": HEADER_BYTES, "max_field_size": HEADER_BYTES, "max_headers": 256}
"""As a worker takes them."""
_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")  # by aiohttp, to what clients said


@dataclass
class _RefusedError(Exception):
    """An answer of the waker's own."""

    status: int
    message: str
    outcome: str
    retry: bool = False


class Front:
    """Serves `pools` from `start` to `stop`, on the ports that `follow` is told. For one event loop."""

    def __init__(self, pools: Pools, admission: Admission, hold_seconds: float, host: str | None = None) -> None:
        """`hold_seconds`: how long a request waits for a worker. `host` None: all addresses."""
        self._pools, self._admission, self._hold, self._host = pools, admission, hold_seconds, host
        self._places = Places(admission.bounds.connections)
        self._listening: dict[int, asyncio.Server] = {}
        self._leaving = False
        self._handling = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._server: web.Server | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,  # a client that goes away is held no longer, and its worker need not go on
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_socket),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            **_HEADERS,
        )
        # aiohttp sends what is idempotent a second time where the answer did not come. As its own test client does.
        self._session._retry_connection = False

    async def follow(self) -> None:
        """Listen on the ports of all pools, and on no other. Connections of a port that goes stay until they end."""
        for port in self._pools.ports - self._listening.keys():
            try:
                self._listening[port] = await asyncio.get_running_loop().create_server(
                    partial(self._connection, port), self._host, port, backlog=BACKLOG
                )
            except OSError as error:
                log.error("cannot listen on port %d: %s; requests of its pool come here in vain", port, error)
        for port in self._listening.keys() - self._pools.ports:
            self._listening.pop(port).close()

    def _connection(self, port: int) -> Connection:
        assert self._server is not None
        return Connection(
            self._places, self._pools.name_at(port), self._server,
            keepalive_timeout=KEEP_ALIVE_SECONDS, auto_decompress=False, access_log=None, **_HEADERS,
        )  # fmt: skip

    def leave(self) -> None:
        """From now on each answer is the last of its connection."""
        self._leaving = True

    async def stop(self, seconds: float) -> None:
        """Take no new connection; give requests `seconds` to end. Who still waits for a worker then is told to come
        again.
        """
        self.leave()
        for server in self._listening.values():
            server.close()
        await self._quiet_within(seconds)
        self._pools.leave()
        await self._quiet_within(PARTING_SECONDS)
        if self._server is not None:
            await self._server.shutdown(timeout=1.0)
        if self._session is not None:
            await self._session.close()

    async def _quiet_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()

    # -- one request ---

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        self._handling += 1
        self._quiet.clear()
        connection.begin()
        try:
            return await self._answer(request, connection)
        finally:
            connection.end()
            self._handling -= 1
            if not self._handling:
                self._quiet.set()

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        outcome = "failed"
        try:
            pool = self._pools.of(connection.pool)
            if pool is None:
                message = "this pool does not go to zero any more: connect anew"
                raise _RefusedError(503, message, "failed", retry=True)
            if request.path in names.PROBES and not pool.awake:
                outcome = "probe"
                return _asleep(request.path)
            response = await self._hold_and_relay(request, pool)
            outcome = "answered"
            return response
        except _RefusedError as error:
            outcome = error.outcome
            return _own_answer(error)
        except asyncio.CancelledError:
            outcome = "gone"
            raise
        except _BrokenError:
            outcome = "broken"
            raise
        finally:
            metrics.REQUESTS.labels(outcome).inc()
            metrics.HELD_BYTES.set(self._admission.size)

    async def _hold_and_relay(self, request: web.BaseRequest, pool: Pool) -> web.StreamResponse:
        began = time.monotonic()
        path = relay.path(request.raw_path)
        if path is None:
            raise _RefusedError(400, f"{request.method} {request.raw_path[:100]} names nothing of a pool", "failed")
        if (why := relay.unfit(request.headers.items())) is not None:
            raise _RefusedError(*why, "failed")
        header = sum(len(name) + len(value) for name, value in request.raw_headers) + len(request.raw_path)
        if header > HEADER_BYTES:
            raise _RefusedError(431, f"the header has more than {HEADER_BYTES} bytes", "refused")
        ticket = self._admission.enter(str(pool.name), request.content_length or 0, header)
        if isinstance(ticket, Refusal):
            raise _too_much(ticket)
        try:
            body = await self._body(request, ticket)
            try:
                async with asyncio.timeout(self._hold) as patience:
                    answer = await self._ask(request, path, body, pool, patience)
                body = b""  # an answer may take minutes
            except TimeoutError:
                raise _late(pool, time.monotonic() - began) from None
            except GoneError:
                message = f"pool {pool.name} is gone, or goes to zero no more: connect anew"
                raise _RefusedError(503, message, "failed", retry=True) from None
            except LeavingError:
                message = "this waker ends, and the request was sent to no worker: try again, another one holds it"
                raise _RefusedError(503, message, "left", retry=True) from None
        finally:
            self._admission.leave(ticket)
        metrics.HOLD_SECONDS.observe(time.monotonic() - began)
        pool.answered()
        with metrics.STREAMS.track_inprogress():
            return await self._relay(request, pool, answer)

    async def _body(self, request: web.BaseRequest, ticket: Ticket) -> bytes:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts: list[bytes] = []
        size, began = 0, time.monotonic()
        while True:
            slow = _RefusedError(408, "the rest of the request did not come", "failed")
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    part = await request.content.readany()
            except TimeoutError:
                raise slow from None
            except web.RequestPayloadError:
                raise _RefusedError(400, "the request's body is no HTTP", "failed") from None
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
            if (refusal := self._admission.grow(ticket, len(part))) is not None:
                raise _too_much(refusal)
            seconds = time.monotonic() - began
            if seconds > RATE_SECONDS and size < seconds * BODY_RATE:
                raise slow

    async def _ask(
        self, request: web.BaseRequest, path: str, body: bytes, pool: Pool, patience: asyncio.Timeout
    ) -> aiohttp.ClientResponse:
        """The answer of the first worker that takes the request. `patience` ends with it: how long that one takes is
        its own affair.
        """
        assert self._session is not None
        if relay.is_websocket(request.headers.items()):
            await pool.target()  # by the next try the Service leads there
            raise _RefusedError(503, "a worker is ready: connect anew for a WebSocket", "refused", retry=True)
        told = relay.trace_context(request.headers.items())
        while True:
            address, port = await pool.target(told)
            headers = relay.request_headers(request.headers.items(), pool.context(told))
            host = f"[{address}]" if ":" in address else address
            url = URL(f"http://{host}:{port}{path}", encoded=True)
            until = patience.when()
            patience.reschedule(None)
            try:
                answer = await self._session.request(
                    request.method, url, headers=headers, data=body if _has_body(request) else None,
                    allow_redirects=False, skip_auto_headers=_NOT_ADDED,
                )  # fmt: skip
            except (aiohttp.ClientError, OSError) as error:
                connected = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
                if relay.after_failure(connected=connected) is relay.Next.GIVE_UP:
                    raise _unknown(address, error) from error
                log.debug("worker %s of %s takes no connection: %s", address, pool.name, error)
                pool.tried((address, port))
                patience.reschedule(until)
                continue
            found = {name.lower(): value for name, value in answer.headers.items()}
            if relay.after_answer(answer.status, found) is relay.Next.ANSWER:
                return answer
            answer.close()
            pool.tried((address, port))
            patience.reschedule(until)

    async def _relay(self, request: web.BaseRequest, pool: Pool, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        async with answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in relay.answer_headers(answer.headers.items()):
                response.headers.add(name, value)
            connection = request.protocol
            # Of what comes in one piece with an offer of another protocol, aiohttp drops what is behind it.
            ends = isinstance(connection, Connection) and (connection.ends or hdrs.UPGRADE in request.headers)
            if self._leaving or ends or pool.route is None or not pool.route.stands:
                response.force_close()  # the Service leads to the workers: the next connection finds them
            await response.prepare(request)
            try:
                async for part in answer.content.iter_any():
                    await self._write(request, response, part)
            except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as error:
                if request.transport is None or request.transport.is_closing():
                    raise asyncio.CancelledError from error  # it is the client who went
                log.warning("a worker of %s broke off its answer: %s", pool.name, error)
                request.transport.abort()  # an end in order would make it look whole
                raise _BrokenError from error
            await self._write(request, response, None)
            return response

    async def _write(self, request: web.BaseRequest, response: web.StreamResponse, part: bytes | None) -> None:
        """A piece of an answer, or None for its end. Raises CancelledError if the client takes nothing for too long: it
        would hold a connection to a worker for ever.
        """
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await (response.write_eof() if part is None else response.write(part))
        except TimeoutError as error:
            connection = request.protocol
            assert isinstance(connection, Connection)
            connection.cut("SlowReader")
            raise asyncio.CancelledError from error


class _BrokenError(Exception):
    """The worker broke off, and so was the client's connection."""


def _has_body(request: web.BaseRequest) -> bool:
    return request.body_exists or request.content_length is not None


def _too_much(refusal: Refusal) -> _RefusedError:
    too_large = refusal is Refusal.BODY
    status, more = (413, "") if too_large else (503, "; the pool is being started: try again")
    return _RefusedError(status, f"{refusal.value}{more}", "refused", retry=not too_large)


def _unknown(address: str, error: Exception) -> _RefusedError:
    message = (
        f"the worker {address} ended before it answered ({type(error).__name__}); whether it did the work is not "
        "known, so it was not asked again"
    )
    return _RefusedError(502, message, "failed")


def _late(pool: Pool, seconds: float) -> _RefusedError:
    message = (
        f"no worker of pool {pool.name} was ready within {seconds:.0f} s; "
        f"see kubectl describe vwp -n {pool.name.namespace} {pool.name.name}"
    )
    return _RefusedError(503, message, "late", retry=True)


def _asleep(path: str) -> web.Response:
    """To who asks after a server that is not there, without having it started: a balancer may send requests, and who
    scrapes finds nothing.
    """
    match path:
        case "/health" | "/ping":
            return web.Response(text='{"status": "asleep"}\n', content_type="application/json")
        case "/metrics":
            return web.Response(text="")
    return _own_answer(_RefusedError(503, "the pool is at zero, and this is no reason to start it", "probe", True))


def _own_answer(error: _RefusedError) -> web.Response:
    """The connection ends: a body may not have been read."""
    body = error_body(error.status, error.message)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if error.retry else {}
    response = web.Response(
        status=error.status, body=json.dumps(body).encode(), content_type="application/json", headers=headers
    )
    response.force_close()
    return response


def _socket(address: Any) -> socket.socket:
    """To a worker: a node that is gone is noticed, however long its answer takes."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
