"""The Python API's loops: whatever fails in them, the program hears of it.

The AsyncLLM is vLLM's, made without its constructor: it has no model and no engine, so each attribute that such a loop
asks for raises. It is the failure, and no stand-in.
"""

import asyncio
from pathlib import Path
from typing import Any

from patience import GUARD_SECONDS


def hear(path: Path, *messages: Any, broken: bool, wanted: str) -> list[Any]:
    """The events that a program gets which sends these, until one says that the engine died of what is wanted.

    Args:
        broken: vLLM cannot say whether it lives.
    """
    import zmq
    import zmq.asyncio
    from vernal_worker.engine import wire
    from vernal_worker.engine.api import ApiServer
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor

    class Alive(AsyncLLM):  # type: ignore[misc]
        errored = False

    async def run() -> list[Any]:
        llm = object.__new__(AsyncLLM if broken else Alive)
        llm.input_processor = object.__new__(InputProcessor)  # whose methods are looked up, not called
        llm.output_processor = OutputProcessor(None, log_stats=False)
        server = ApiServer(llm, lambda: "")
        await server.open(str(path))
        context = zmq.asyncio.Context()
        program = context.socket(zmq.DEALER)
        program.connect(f"ipc://{path}")
        try:
            for message in messages:
                await program.send(wire.encoder()(message))
            events: list[Any] = []
            async with asyncio.timeout(GUARD_SECONDS):
                while not any(isinstance(event, wire.Died) and wanted in event.message for event in events):
                    events += wire.program_decoder()(await program.recv()).events
            return events
        finally:
            program.close(0)
            context.term()
            await server.close()

    return asyncio.run(run())


def test_a_program_whose_greeting_fails_is_told(tmp_path: Path) -> None:
    from vernal_worker.engine import wire

    (event,) = hear(tmp_path / "api.sock", wire.Hello(), broken=False, wanted="vllm_config")
    assert isinstance(event, wire.Died)


def test_a_loop_that_ends_is_told(tmp_path: Path) -> None:
    """Else the program waits for an engine of which nobody looks whether it lives."""
    from vernal_worker.engine import wire

    assert hear(tmp_path / "api.sock", wire.Hello(), broken=True, wanted="API has failed")
