"""A question to the engine that needs no event loop, and gets its answer while the caller waits."""

from typing import Any

import zmq

from vernal_worker.engine import wire


def ask(path: str, question: wire.Ask, seconds: float) -> Any:
    """The engine's answer, on a connection of its own: `wire.Welcome`, or `wire.Metrics`.

    Raises:
        TimeoutError: there is none within `seconds`.
        msgspec.DecodeError, ValueError, TypeError: it is not understood.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{path}")
        socket.send(wire.encoder()(question))
        if not socket.poll(round(seconds * 1000)):
            raise TimeoutError(f"the engine has not answered a question within {seconds:g} s")
        (event,) = wire.program_decoder()(socket.recv()).events
        return event
