"""What a wake's trace is made of. Pure."""

from collections.abc import Mapping

from vernal_operator import spans
from vernal_operator.spans import Span

from vernal_waker.routes import PoolName


def wake(pool: PoolName, began: float, seconds: float, phases: Mapping[str, float], outcome: str) -> Span:
    """From the request that asked for a worker, `began` (since the epoch), to what became of it.

    `phases`: seconds from there to `asked` (/scale has answered), `endpoint` (a worker is ready) and `first_byte` (of
    its answer), as far as it came.
    """
    whole = Span("wake", began, began + seconds)
    held = Span("held", began, began + phases.get("endpoint", seconds)).within(whole.begin, whole.end)
    parts = [held]
    if "asked" in phases:
        scale = Span("scale", began, began + phases["asked"]).within(held.begin, held.end)
        parts = [Span("held", held.begin, held.end, children=(scale,))]
    if "endpoint" in phases and "first_byte" in phases:
        parts.append(Span("first_byte", held.end, began + phases["first_byte"]).within(held.end, whole.end))
    attributes = {spans.NAMESPACE: pool.namespace, spans.POOL: pool.name, spans.OUTCOME: outcome}
    return Span(whole.name, whole.begin, whole.end, attributes, tuple(parts))
