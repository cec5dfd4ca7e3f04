"""What runs, and a freeze, which needs that nothing does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

MEANWHILE = frozenset({"abort", "check_health", "is_paused", "is_sleeping", "resume_generation", "wake_up"})
"""Methods that are answered while a freeze waits for requests: they may be what it waits for."""


class Gate:
    """While something runs, there is no freeze; while there is a freeze, nothing runs."""

    def __init__(self) -> None:
        self.apart = False
        """Whether the engine is being frozen, and there is nobody to be asked."""
        self._running = 0
        self._shut = False
        self._event: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @contextlib.asynccontextmanager
    async def use(self, *, meanwhile: bool = False) -> AsyncIterator[None]:
        """Something runs. `meanwhile`: it is not held back before the freeze has really begun."""
        while self._shut and (self.apart or not meanwhile):
            await self._opened()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def shut(self, drain_timeout: float | None, runs: Callable[[], str]) -> None:
        """Hold back what comes, and wait until nothing runs. To be ended with `open`, unless this raises.

        Args:
            drain_timeout: seconds; None: without end.
            runs: names what runs besides; "" if nothing does.

        Raises:
            TimeoutError: something ran for longer; it is named, and the gate is open again.
        """
        while self._shut:
            await self._opened()
        self._shut = True
        try:
            try:
                async with asyncio.timeout(drain_timeout):
                    # Nothing tells when the last collector that the program holds is closed.
                    while self._running or runs():  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            except TimeoutError:
                what = runs() or f"{self._running} calls"
                raise TimeoutError(f"not frozen: after {drain_timeout:g} s there runs {what}") from None
            self.apart = True
        except BaseException:
            self.open()
            raise

    def open(self) -> None:
        self.apart = self._shut = False
        if self._event is not None:
            self._event[1].set()
            self._event = None

    async def _opened(self) -> None:
        """An event belongs to the loop that waits for it, and a program may use one loop after the other."""
        loop = asyncio.get_running_loop()
        if self._event is None or self._event[0] is not loop:
            self._event = loop, asyncio.Event()
        await self._event[1].wait()
