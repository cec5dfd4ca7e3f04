"""Whether a prompt that the store has is worth loading: not if computing it is expected to take less time. Pure.

Both speeds are what was measured of late, at the best: a store with little to do is not a slow one, nor is an engine.
Where one of them is not known, loading is worth a try. So is it once the last measurement is old, which is how a store
that has become faster is found out.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic

_MARGIN = 1.5
"""By how much loading must be slower: speeds are estimates, and a load leaves the engine free for others."""

_WINDOW_SECONDS = 1.0
_MOST_SAMPLES = 64


class Admission:
    """One for each scheduler.

    Args:
        seconds: how long a measurement counts; 0: not at all, everything is loaded.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._loaded: deque[tuple[float, float]] = deque(maxlen=_MOST_SAMPLES)  # when, tokens a second
        self._computed: deque[tuple[float, float]] = deque(maxlen=_MOST_SAMPLES)
        self._window: float | None = None  # since when the engine has had work without a pause
        self._tokens = 0  # scheduled since then

    def loaded(self, rate: float) -> None:
        """Loads were seen to bring so many tokens a second."""
        self._loaded.append((self._clock(), rate))

    def scheduled(self, tokens: int) -> None:
        """The engine is about to compute a step with so many tokens; those before it are computed, or nearly."""
        now = self._clock()
        if tokens == 0:
            self._window = None
            return
        if self._window is None:
            self._window, self._tokens = now, 0
        elif now - self._window >= _WINDOW_SECONDS:
            self._computed.append((now, self._tokens / (now - self._window)))
            self._window, self._tokens = now, 0
        self._tokens += tokens

    def worth(self, tokens: int, before: int) -> bool:
        """Whether to load `tokens`, where loads of `before` tokens are under way."""
        loading, computing = self._best(self._loaded), self._best(self._computed)
        return loading is None or computing is None or (before + tokens) / loading <= _MARGIN * tokens / computing

    def _best(self, samples: deque[tuple[float, float]]) -> float | None:
        now = self._clock()
        return max((rate for when, rate in samples if now - when < self._seconds), default=None)
