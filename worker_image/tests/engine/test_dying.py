"""A call of EngineCore ends when EngineCore does."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from patience import GUARD_SECONDS
from vernal_worker.engine.vllm_adapter import Engine
from vllm.v1.engine.exceptions import EngineDeadError


def engine(*, errored: bool) -> Any:
    return SimpleNamespace(llm=SimpleNamespace(errored=errored, dead_error=EngineDeadError()))


async def test_what_a_dead_core_will_not_answer_is_not_waited_for() -> None:
    """vLLM fails what it is asked later, not what it has been asked before."""
    unanswered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(GUARD_SECONDS):
        with pytest.raises(EngineDeadError):
            await Engine._answer(engine(errored=True), unanswered)
    assert unanswered.cancelled()


async def test_answers_and_errors_are_the_calls_own() -> None:
    async def call(error: Exception | None) -> str:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return "answer"

    for errored in (False, True):
        alive = cast(Any, engine(errored=errored))
        assert await Engine._answer(alive, call(None)) == "answer"
        with pytest.raises(LookupError, match="its own"):
            await Engine._answer(alive, call(LookupError("its own")))
