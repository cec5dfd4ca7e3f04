"""How long steps took, and when they were over."""

import time
from collections.abc import Mapping


class Timings(dict[str, float]):
    """Seconds by step. Each is set when the step is over; `ended` has when that was, by `time.monotonic`."""

    def __init__(self, seconds: Mapping[str, float] | None = None, ended: Mapping[str, float] | None = None) -> None:
        """`seconds`, `ended`: of another process on this machine."""
        super().__init__(seconds or {})
        self.ended = dict(ended or {})

    def __setitem__(self, name: str, seconds: float) -> None:
        super().__setitem__(name, seconds)
        self.ended[name] = time.monotonic()
