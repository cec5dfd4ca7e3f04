"""A question to the engine that needs no event loop, and gets its answer while the caller waits."""

import time
from collections.abc import Callable
from typing import Any

import zmq

from vernal_worker.engine import wire

_LOOK_SECONDS = 0.5


def ask(path: str, question: wire.Ask, seconds: float, alive: Callable[[], bool]) -> Any:
    """The engine's answer, on a connection of its own: `wire.Welcome`, or `wire.Metrics`.

    Args:
        seconds: to wait for it.
        alive: says whether there is still somebody to wait for.

    Raises:
        TimeoutError: there is none within `seconds`, or nobody is there any more.
        msgspec.DecodeError: it is not understood.
    """
    deadline = time.monotonic() + seconds
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{path}")
        socket.send(wire.encoder()(question))
        while not socket.poll(round(_LOOK_SECONDS * 1000)):
            if not alive():
                raise TimeoutError("the engine is gone")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the engine has not answered a question within {seconds:g} s")
        (event,) = wire.program_decoder()(socket.recv()).events
        return event
