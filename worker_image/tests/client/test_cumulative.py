"""What adds differences up says what vLLM's own output processor says to who asks for all so far."""

from typing import Any

import pytest


def request(kind: Any, token_ids: list[int], *, resumable: bool = False) -> Any:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    return EngineCoreRequest(
        request_id="inner",
        external_req_id="outer",
        prompt_token_ids=list(token_ids),
        mm_features=None,
        sampling_params=SamplingParams(output_kind=kind, detokenize=False),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        resumable=resumable,
    )


class Engine:
    """vLLM's output processor, asked for what the program asked (`across` False) or as the engine's API asks it."""

    def __init__(self, *, across: bool) -> None:
        from vernal_worker.client.outputs import Assembly
        from vernal_worker.engine.api import _Differences
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

        self.kind = RequestOutputKind.DELTA if across else RequestOutputKind.CUMULATIVE
        self.processor = OutputProcessor(None, log_stats=False)
        self.queue = RequestOutputCollector(self.kind, "inner")
        self.across = (_Differences(1), Assembly(True)) if across else None

    def give(self, token_ids: list[int], *, resumable: bool = False) -> None:
        self.processor.add_request(request(self.kind, token_ids, resumable=resumable), None, queue=self.queue)

    def says(self, token_ids: list[int], **more: Any) -> Any:
        from vernal_worker.engine import wire
        from vllm.v1.engine import EngineCoreOutput

        self.processor.process_outputs([EngineCoreOutput("inner", token_ids, **more)])
        output = self.queue.get_nowait()
        if self.across is None:
            return output
        differences, assembly = self.across
        message = wire.encoder()(wire.Batch([differences.of(output)], 1, 0))
        (event,) = wire.program_decoder()(message).events
        assert isinstance(event, wire.Output)
        return assembly.add(event)


@pytest.mark.parametrize("across", [False, True], ids=["AsyncLLM", "library"])
def test_sampling_masks(across: bool) -> None:
    import numpy
    from vllm.v1.engine import FinishReason
    from vllm.v1.outputs import SamplingMaskLists

    engine = Engine(across=across)
    engine.give([5, 9])
    found = []
    for token in (7, 8, 9):
        mask = SamplingMaskLists(numpy.array([token, token + 100], numpy.int32), numpy.array([0, 2], numpy.int64))
        reason = FinishReason.LENGTH if token == 9 else None
        found.append(engine.says([token], new_sampling_mask=mask, finish_reason=reason).outputs[0])
    assert list(found[-1].token_ids) == [7, 8, 9]
    assert [one.sampling_mask for one in found[:-1]] == [None, None]
    assert found[-1].sampling_mask.token_ids == [[7, 107], [8, 108], [9, 109]]


@pytest.mark.parametrize("across", [False, True], ids=["AsyncLLM", "library"])
def test_scores_of_prompt_tokens(across: bool) -> None:
    import torch
    from vllm.v1.engine import FinishReason

    engine = Engine(across=across)
    engine.give([5, 9])
    first = engine.says([7], prompt_token_id_logprobs=torch.tensor([[0.5], [0.25]]))
    last = engine.says([8], finish_reason=FinishReason.LENGTH)
    for output in (first, last):
        assert output.prompt_token_id_logprobs is not None
        assert output.prompt_token_id_logprobs.tolist() == [[0.5], [0.25]]


@pytest.mark.parametrize("across", [False, True], ids=["AsyncLLM", "library"])
def test_tokens_of_a_prompt_that_streams_in(across: bool) -> None:
    from vllm.v1.engine import FinishReason

    engine = Engine(across=across)
    engine.give([5, 9], resumable=True)
    found = [list(engine.says([7], finish_reason=FinishReason.LENGTH).prompt_token_ids)]
    engine.give([6, 9], resumable=True)
    found.append(list(engine.says([8], finish_reason=FinishReason.LENGTH).prompt_token_ids))
    assert found == [[5, 9], [5, 9, 6, 9]]
