"""What the connector does in the scheduler's process: the planner, and the lookups that it needs. Engine-free."""

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from vernal_worker.kv import LOGGER
from vernal_worker.kv.admission import Admission
from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.keys import Salt, block_keys
from vernal_worker.kv.lookup import NOTHING, Answer, Breaker, Lookup
from vernal_worker.kv.planner import Planner, Report, Scheduled, StepPlan
from vernal_worker.kv.settings import Settings

_logger = logging.getLogger(LOGGER)
_PATIENCE_SECONDS = 0.002
"""How long a step waits for lookups, all its requests together. Storage that is near answers sooner, and a request need
not wait for the next step."""


@dataclass(frozen=True)
class Prompt:
    """What the scheduler side needs to know of a request.

    Attributes:
        tokens: of the prompt; None if the prompt is not made of tokens alone: then nothing can be shared.
        length: number of tokens of the request so far.
        salt: computed when it is needed, once; None if it cannot be known: then nothing can be shared either.
        may_load: False for a request that must see all its tokens computed.
        alone: whether what the salt says is still all that the engine may compute its blocks from; asked at each step.
    """

    request_id: str
    tokens: Sequence[int] | None
    length: int
    salt: Callable[[], Salt | None]
    may_load: bool
    alone: Callable[[], bool] = lambda: True


class SchedulerSide:
    """Connected once the workers have said what their blocks are (`connect`)."""

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        *,
        block_tokens: int,
        ranks: int,
        loads: bool,
        saves: bool,
        synchronous: bool = True,
        recompute: bool = True,
    ) -> None:
        """
        Args:
            synchronous: whether the engine recovers from a load that fails in the step that needs it.
            recompute: whether a failed load costs time. If not, it costs a request.
        """
        self._settings = settings
        self._counters = counters
        self._block_tokens = block_tokens
        self._ranks = ranks
        self._synchronous = synchronous
        if not (synchronous or settings.load_async):
            _logger.warning("load_async is true whatever is set: this engine does not recover from other loads")
        self._layouts: tuple[Layout, ...] = ()
        self._recompute = recompute
        self._lookup: Lookup | None = None
        self._patience = _PATIENCE_SECONDS
        self._epoch: str | None = None
        self.breaker = Breaker(settings.cooldown_seconds, counters)
        self.planner = Planner(
            block_tokens, self, counters, Admission(settings.cooldown_seconds), loads=loads, saves=saves
        )
        self.evict: Callable[[set[int]], None] = lambda _: None
        """Takes blocks out of the engine's own prefix cache."""

    def connect(self, layouts: Sequence[Layout]) -> None:
        """`layouts` of all workers."""
        if len(layouts) != self._ranks:
            _logger.warning(
                "KV blocks are not shared: %d of %d workers can (see their messages)", len(layouts), self._ranks
            )
            return
        self._layouts = tuple(layouts)
        self.reconnect(self._settings)

    def reconnect(self, settings: Settings) -> None:
        self._settings = settings
        if self._lookup is None and self._layouts:
            stores = [self.make_store(settings, layout) for layout in self._layouts]
            self._lookup = Lookup(
                stores, settings.lookup_timeout_seconds, self.breaker, self._counters, guess=self._recompute
            )
            self.breaker.reset()
            self.planner.forget()

    def release(self) -> None:
        if self._lookup is not None:
            self._lookup.stop()
            self._lookup = None

    def reset(self) -> None:
        """The engine's caches are to be forgotten, perhaps because its weights were changed, which vLLM does not tell.
        From now on its blocks are its own, and requests that it has already are neither loaded for nor saved."""
        if self._lookup is None:  # also: while it is frozen or sleeps for a freeze, which changes nothing
            return
        if self._epoch is None:
            _logger.warning(
                "KV blocks are shared with no other worker any more: this engine's cache was reset, as after a change "
                "of weights"
            )
        self._epoch = secrets.token_hex(16)
        self.planner.abandon()

    def make_store(self, settings: Settings, layout: Layout) -> BlockStore:
        return BlockStore(settings.root, layout)

    def load_async(self) -> bool:
        """Ranks know only of their own failures: one whose load succeeded would save what it computed from the others'
        failed ones. Asynchronous loads are over on all ranks before anything is computed."""
        return self._settings.load_async or self._ranks > 1 or not self._synchronous

    def match(self, prompt: Prompt, computed: int) -> tuple[int | None, bool]:
        tokens = prompt.tokens
        if tokens is None or self._lookup is None:
            return 0, False
        return self.planner.match(
            prompt.request_id,
            lambda: self.keys(tokens, prompt),
            tokens=prompt.length,
            computed=computed,
            may_load=prompt.may_load and not self.breaker.open,
            load_async=self.load_async(),
            alone=prompt.alone,
        )

    def plan(self, step: Sequence[Scheduled]) -> StepPlan:
        """The step is put together: what the workers do in it."""
        self._patience = _PATIENCE_SECONDS
        return self.planner.plan(step)

    def keys(self, tokens: Sequence[int], prompt: Prompt) -> list[bytes]:
        """One for each full block; none if it cannot be known what the blocks depend on."""
        salt = prompt.salt()
        if salt is None:
            return []
        return block_keys(tokens, self._block_tokens, replace(salt, epoch=self._epoch))

    def observe(self, invalid: Iterable[int], finished: Iterable[str], reports: Sequence[Report]) -> None:
        if any(report.hung for report in reports):
            self.breaker.trip(f"storage answered no read within {self._settings.load_timeout_seconds} s")
        untrusted = self.planner.observe(invalid, finished, reports)
        if untrusted:
            self.evict(untrusted)

    def ask(self, keys: Sequence[bytes]) -> Answer:
        if self._lookup is None:
            return NOTHING
        answer = self._lookup.ask(keys)
        start = monotonic()
        answer.hits(self._patience)
        self._patience = max(0.0, self._patience - (monotonic() - start))
        return answer

    def doubt(self, lost: Iterable[bytes], behind: Iterable[bytes]) -> None:
        if self._lookup is not None:
            self._lookup.doubt(lost, behind)
