"""What of a request and of its answer goes through, and when a request may be sent again."""

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from types import MappingProxyType

from vernal_contract import names

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection, not of the request (RFC 9110, section 7.6.1)."""

_OURS = frozenset({"content-length", "expect"})
"""Of requests: the body is sent whole, and 100-continue was answered here."""


class Next(Enum):
    """What to do after a worker was tried."""

    ANSWER = auto()  # hand its answer on
    ELSEWHERE = auto()  # nothing of the request was done: another worker, or this one later
    GIVE_UP = auto()  # it is not known what was done: never send it twice


def after_answer(status: int, headers: Mapping[str, str]) -> Next:
    """`headers` with names in lower case."""
    return Next.ELSEWHERE if status == 503 and names.HEADER_NOT_ACCEPTED in headers else Next.ANSWER


def after_failure(*, connected: bool) -> Next:
    """There was no answer. Before there was a connection, nothing can have been done."""
    return Next.GIVE_UP if connected else Next.ELSEWHERE


def path(target: str) -> str | None:
    """What the worker is asked for, by a request's target (RFC 9112, section 3.2): its origin form is that, its
    absolute form has it behind a host that is not looked at. None for `*` and for a host alone, which name nothing of
    a pool.
    """
    if target.startswith("/"):
        return target
    _, found, rest = target.partition("://")
    if not found:
        return None
    end = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    return f"/{rest[end:].removeprefix('/')}"


def unfit(headers: Iterable[tuple[str, str]]) -> tuple[int, str] | None:
    """The status and the reason for which a request is refused that would not come through as it is."""
    for name, value in headers:
        if name.lower() == "transfer-encoding" and value.strip().lower() != "chunked":
            return 501, "no transfer coding is known but chunked"
        if not value.isprintable() and any("\udc80" <= char <= "\udcff" for char in value):  # bytes of no UTF-8
            return 400, f"the header {name[:100]} is not UTF-8"
    return None


def is_websocket(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether a client wants to go on with another protocol, and will not do with HTTP. Others, like h2c, it offers."""
    given = list(headers)
    wanted = ",".join(value for name, value in given if name.lower() == "upgrade").lower()
    return "upgrade" in _named_by(given) and "websocket" in (one.strip() for one in wanted.split(","))


def _named_by(headers: Iterable[tuple[str, str]]) -> frozenset[str]:
    """More of them, by the header Connection's own word."""
    values = (value for name, value in headers if name.lower() == "connection")
    return frozenset(word.strip().lower() for value in values for word in value.split(","))


def request_headers(
    headers: Iterable[tuple[str, str]], instead: Mapping[str, str] = MappingProxyType({})
) -> list[tuple[str, str]]:
    """What the worker is sent. `instead`, with names in lower case, takes the place of the client's own."""
    given = list(headers)
    left_out = HOP_BY_HOP | _OURS | _named_by(given) | instead.keys()
    return [*((name, value) for name, value in given if name.lower() not in left_out), *instead.items()]


def trace_context(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A request's headers of W3C Trace Context, with names in lower case. None of them if there is not exactly one
    `traceparent`: by that standard it then says nothing.
    """
    given = [(name.lower(), value) for name, value in headers]
    parents = [value for name, value in given if name == "traceparent"]
    if len(parents) != 1:
        return {}
    states = [value for name, value in given if name == "tracestate"]
    return {"traceparent": parents[0]} | ({"tracestate": ",".join(states)} if states else {})


def answer_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What the client is sent."""
    given = list(headers)
    left_out = HOP_BY_HOP | _named_by(given)
    return [(name, value) for name, value in given if name.lower() not in left_out]
