"""vLLM's output processor, and what its core says of a request whose prompt comes in parts."""

import asyncio
import itertools
from typing import Any

import pytest

PARTS = [*itertools.product(range(4), (True, False))]
"""How many wait behind the first, and whether the end has come."""


def request(token_ids: list[int], *, resumable: bool = True) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine import EngineCoreRequest

    return EngineCoreRequest(
        request_id="inner",
        external_req_id="outer",
        prompt_token_ids=token_ids,
        mm_features=None,
        sampling_params=SamplingParams(output_kind=RequestOutputKind.DELTA, detokenize=False),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        resumable=resumable,
    )


class Session:
    """One that has been given its first part, and whose task waits for the next."""

    def __init__(self) -> None:
        from vernal_worker.engine import sessions
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

        self.processor = OutputProcessor(None, log_stats=False)
        sessions.guard(self.processor)
        self.queue = RequestOutputCollector(RequestOutputKind.DELTA, "inner")
        self.task = self.queue._input_stream_task = asyncio.create_task(asyncio.Event().wait())
        self.give([5, 9])

    def give(self, token_ids: list[int], *, resumable: bool = True) -> None:
        self.processor.add_request(request(token_ids, resumable=resumable), None, queue=self.queue)

    def says(self, token_ids: list[int], reason: Any = None) -> Any:
        """What is to be aborted in the core after it."""
        from vllm.v1.engine import EngineCoreOutput

        output = EngineCoreOutput("inner", token_ids, finish_reason=reason)
        return self.processor.process_outputs([output]).reqs_to_abort

    async def ended(self) -> bool:
        """Whether no part can come any more."""
        await asyncio.wait([self.task], timeout=0)
        return self.task.cancelled() and not self.processor.has_unfinished_requests()


@pytest.mark.parametrize("reason", ["ABORT", "ERROR"])
@pytest.mark.parametrize(("waiting", "end"), PARTS)
async def test_a_session_that_the_core_ends_is_the_end_of_the_request(waiting: int, end: bool, reason: str) -> None:
    from vllm.v1.engine import FinishReason

    session = Session()
    for number in range(waiting):
        session.give([6 + number, 9])
    if end:
        session.give([0], resumable=False)
    assert session.says([3]) == []
    assert not session.queue.get_nowait().finished
    assert session.says([], FinishReason[reason]) == ["inner"]
    last = session.queue.get_nowait()
    assert (last.finished, last.outputs[0].finish_reason) == (True, reason.lower())
    assert await session.ended()
    assert session.says([4]) == [] and session.queue.get_nowait() is None


async def test_one_that_waits_for_its_next_part_ends_too() -> None:
    from vllm.v1.engine import FinishReason

    session = Session()
    session.says([3], FinishReason.LENGTH)
    assert not session.queue.get_nowait().finished and not await session.ended()
    assert session.says([], FinishReason.ABORT) == ["inner"]
    assert session.queue.get_nowait().finished and await session.ended()


@pytest.mark.parametrize("waiting", range(4))
async def test_the_end_of_a_part_is_none_of_the_request(waiting: int) -> None:
    from vllm.v1.engine import FinishReason

    session = Session()
    for number in range(waiting):
        session.give([6 + number, 9])
    session.give([0], resumable=False)
    for left in range(waiting, -1, -1):
        assert session.says([3], FinishReason.LENGTH) == []
        assert session.queue.get_nowait().finished is (left == 0)
    assert not session.processor.has_unfinished_requests()


@pytest.mark.parametrize(("name", "internal"), [("outer", False), ("inner", True)])
async def test_an_abort_lets_no_part_in_after_it(name: str, internal: bool) -> None:
    """Before whoever reads the answer runs again: a part would open a session that nobody ends."""
    session = Session()
    assert session.processor.abort_requests(iter([name]), internal) == ["inner"]
    assert session.queue.get_nowait().outputs[0].finish_reason == "abort"
    assert await session.ended()


async def test_other_requests_are_left_as_they_are() -> None:
    from vllm.v1.engine import FinishReason

    session = Session()
    session.processor.abort_requests(["outer"], False)
    session.queue.get_nowait()
    session.give([5, 9], resumable=False)
    assert session.says([], FinishReason.ABORT) == []
    assert session.queue.get_nowait().finished
