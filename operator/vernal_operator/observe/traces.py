"""Starts as traces. One from zero goes on with the trace of the request that has woken the pool, which its waker knows.

A waker is asked when the start is over, which is when the trace is sent: its answer to the request is long there, and
of a waker that has ended meanwhile nobody gets the span to hang the start below.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlencode

import aiohttp
from vernal_contract import wakes
from vernal_contract.wakes import Wake

from vernal_operator import metrics
from vernal_operator.observe.fetch import RefusedError, fetch, session
from vernal_operator.observe.wakers import Wakers
from vernal_operator.plan.timeline import Timeline
from vernal_operator.tracing import Tracer

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0
"""For the wakers' answers to one start."""
QUEUE = 256
"""Starts for which wakers are still to be asked. Further ones are traces of their own."""
_LAST_SECONDS = 2 * TIMEOUT_SECONDS


class Traces:
    """Thread-safe."""

    def __init__(self, tracer: Tracer, wakers: Wakers | None, timeout: float = TIMEOUT_SECONDS) -> None:
        self._tracer, self._wakers, self._timeout = tracer, wakers, timeout
        self._queue: queue.Queue[tuple[Timeline, str] | None] = queue.Queue(QUEUE)
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def tell(self, told: Timeline, uid: str) -> None:
        """Send a start of the pool with this uid, sooner or later. Waits for nobody."""
        from_zero = told.wish is not None and told.wish.versions is not None
        if from_zero and self._wakers is not None and not self._closing:
            with suppress(queue.Full):
                self._queue.put_nowait((told, uid))
                return
        self._tracer.tell(told.span, "")

    def close(self) -> None:
        """Ask nobody any more, and send what waits."""
        self._closing = True
        with suppress(queue.Full):
            self._queue.put(None, timeout=_LAST_SECONDS)
        self._thread.join(_LAST_SECONDS)

    # -- in the thread ---

    def _work(self) -> None:
        while (due := self._queue.get()) is not None:
            told, uid = due
            parent = ""
            try:
                if told.wish is not None and not self._closing:
                    parent = told.wish.trace(uid, self._woken(uid))
            except Exception:
                log.exception("a bug in Vernal, please report it: asking wakers failed; the start is its own trace")
            self._tracer.tell(told.span, parent)

    def _woken(self, uid: str) -> list[Wake]:
        assert self._wakers is not None
        return asyncio.run(self._ask_all(self._wakers.probes(), uid))

    async def _ask_all(self, targets: Iterable[tuple[str, int]], uid: str) -> list[Wake]:
        path = f"{wakes.PATH}?{urlencode({'uid': uid})}"
        async with session(self._timeout) as made:
            answers = await asyncio.gather(*(self._ask(made, *target, path) for target in targets))
        return [wake for answer in answers for wake in answer]

    async def _ask(self, made: aiohttp.ClientSession, address: str, port: int, path: str) -> list[Wake]:
        try:
            found = wakes.decode(await fetch(made, address, port, path, wakes.MAX_BYTES))
        except (RefusedError, TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            metrics.WAKE_READS.labels("failed").inc()
            log.warning(
                "waker %s: GET %s on port %d: %s: %s; a start that it has asked for is a trace of its own: let the "
                "operator reach that port", address, path, port, type(error).__name__, error,
            )  # fmt: skip
            return []
        metrics.WAKE_READS.labels("ok").inc()
        return found
