"""Asks workers for `GET /state`, many at once, and keeps what they last said.

Worker pods run other people's models and are not trusted: an answer is bounded in time and size, redirects
are not followed, and what does not parse counts as no answer. One event loop in a thread of its own does the
asking, because only there a time-out covers the whole exchange.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import aiohttp
from vernal_contract import names
from vernal_contract.state import WorkerState

from vernal_operator import metrics
from vernal_operator.observe.answers import MAX_BYTES, Reader
from vernal_operator.observe.fetch import RefusedError, fetch, session

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0
CONCURRENCY = 100


@dataclass(frozen=True, slots=True)
class Target:
    """One container: a pod's worker, between two restarts."""

    uid: str
    restarts: int
    pod: str
    address: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a container said last, as far as it is believed: `doubt` says why some of it is not, "" if all is. `worker`
    is None as long as it never answered. Times: seconds since the epoch.
    """

    restarts: int
    polled_at: float
    worker: WorkerState | None = None
    answered_at: float | None = None
    doubt: str = ""


class Workers:
    """What is known from workers. Thread-safe."""

    def __init__(self, port: int = names.PORT_ADMIN, timeout: float = TIMEOUT_SECONDS) -> None:
        self._port, self._timeout = port, timeout
        self._answers: dict[str, Answer] = {}
        self._asking: set[str] = set()
        self._reader = Reader()  # of the loop's thread
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(CONCURRENCY)  # not the connector's limit, for which the time-out does not wait
        self._thread = threading.Thread(target=self._loop.run_forever, name="workers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop asking; what is in flight is given up."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    def answer(self, uid: str, restarts: int) -> Answer | None:
        """The last answer of this very container, or None if it was not asked yet."""
        with self._lock:
            found = self._answers.get(uid)
        return found if found is not None and found.restarts == restarts else None

    def forget(self, uid: str) -> None:
        """The pod is gone. An answer that is still on its way is dropped."""
        with self._lock:
            self._answers.pop(uid, None)
            self._asking.discard(uid)

    def ask(self, targets: Iterable[Target], done: Callable[[], None]) -> None:
        """Ask them all in the background, then call `done` once. Who is being asked already is not asked
        again; the earlier call's `done` tells of them.
        """
        with self._lock:
            batch = [target for target in targets if target.uid not in self._asking]
            self._asking |= {target.uid for target in batch}
        if batch:
            asyncio.run_coroutine_threadsafe(self._ask_all(batch, done), self._loop)

    # -- in the loop ---

    async def _ask_all(self, batch: list[Target], done: Callable[[], None]) -> None:
        try:
            for error in await asyncio.gather(*(self._ask(target) for target in batch), return_exceptions=True):
                if error is not None:  # the others have answered all the same
                    log.error("a bug in Vernal, please report it: asking a worker failed", exc_info=error)
        finally:
            with self._lock:
                self._asking -= {target.uid for target in batch}
            done()

    async def _ask(self, target: Target) -> None:
        result, state = "ok", None
        doubts: list[str] = []
        try:
            async with self._places:
                data = await self._get(target.address)
            state = self._reader.read(data, doubts.append)
        except TimeoutError:
            result = "timeout"
        except RefusedError as error:
            result = "refused"
            log.warning("pod %s: GET /state on %s: %s", target.pod, target.address, error)
        except (aiohttp.ClientError, OSError):
            result = "unreachable"  # normal while a worker starts or ends
        except ValueError as error:
            result = "invalid"
            log.warning(
                "pod %s: GET /state on %s is not of this release's schema (%s); "
                "use a worker image of the operator's release", target.pod, target.address, error,
            )  # fmt: skip
        metrics.STATE_READS.labels(result).inc()
        now = time.time()
        with self._lock:
            before = self._answers.get(target.uid)
            if target.uid not in self._asking or (before is not None and before.restarts > target.restarts):
                return  # the pod, or the container that was asked, is gone
            if before is None or before.restarts != target.restarts:
                before = Answer(target.restarts, now)
            answer = replace(before, polled_at=now)
            if state is not None:
                answer = replace(answer, worker=state, answered_at=now, doubt="; ".join(doubts))
            self._answers[target.uid] = answer
        if doubts:
            metrics.STATE_READS.labels("doubted").inc()
        if answer.doubt != before.doubt and answer.doubt:
            log.warning(
                "pod %s: GET /state on %s: %s: it counts for no checkpoint", target.pod, target.address, answer.doubt
            )

    async def _get(self, address: str) -> bytes:
        if self._session is None:
            self._session = session(self._timeout)
        return await fetch(self._session, address, self._port, "/state", MAX_BYTES)

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()
