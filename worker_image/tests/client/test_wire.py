"""What may travel between a program and its engine, and what may not."""

from typing import Any

import msgspec
import pytest


def across(value: Any) -> Any:
    from vernal_worker.engine import wire

    message = wire.encoder()(wire.Call(1, "m", [wire.pack(value)], {}))
    decoded = wire.engine_decoder()(message)
    assert isinstance(decoded, wire.Call)
    return decoded.args[0]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [True, 1, -1.5, "text", b"bytes"],
        {"a": [1, (2, 3)], "b": {4, 5}},
        {1: "int keys", (2, 3): {"nested": None}},
        [[1, 2], [3, None]],
    ],
)
def test_plain_values(value: Any) -> None:
    assert across(value) == value
    assert type(across(value)) is type(value)


def test_parameters_of_vllm() -> None:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.pooling_params import PoolingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    params = SamplingParams(
        n=2,
        temperature=0.7,
        seed=5,
        stop=["end", "."],
        stop_token_ids=[3, 4],
        logit_bias={7: 1.5},
        structured_outputs=StructuredOutputsParams(json={"type": "object"}),
        output_kind=RequestOutputKind.DELTA,
        extra_args={"a": [1]},
    )
    assert across(params) == params and across(params).output_kind is RequestOutputKind.DELTA
    pooling = PoolingParams(dimensions=8, task="embed")
    assert across(pooling) == pooling
    lora = LoRARequest("name", 1, "/path")
    assert (across(lora).lora_name, across(lora).lora_path) == ("name", "/path")


def test_arrays_and_tensors() -> None:
    import numpy
    import torch

    half = numpy.array([1.5], "float16")
    for array in (numpy.arange(6, dtype="int64").reshape(2, 3), numpy.zeros((0, 4), "float32"), half):
        back = across(array)
        assert back.dtype == numpy.asarray(array).dtype and (back == array).all() and back.shape == array.shape
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        tensor = torch.tensor([[1, 0], [1, 1]]).to(dtype)
        assert across(tensor).dtype == dtype and torch.equal(across(tensor), tensor)
    assert across(torch.empty(0, 3)).shape == (0, 3)
    assert across({"dtype": torch.bfloat16}) == {"dtype": torch.bfloat16}
    with pytest.raises(TypeError, match="ndarray cannot be sent"):
        across(numpy.array([object()]))


def test_images() -> None:
    import PIL.Image
    from vernal_worker.engine import wire

    plain = PIL.Image.effect_noise((5, 3), 50)
    for mode in sorted(wire.IMAGE_MODES.keys() - {"LA", "YCbCr", "HSV", "I;16"}):
        image = plain.convert("RGB").convert(mode)
        back = across({"multi_modal_data": {"image": [image]}})["multi_modal_data"]["image"][0]
        assert (back.mode, back.size, back.tobytes()) == (image.mode, image.size, image.tobytes())
    with pytest.raises(TypeError, match=r"mode 'P' cannot be sent.*convert"):
        across(plain.convert("P"))


def test_what_cannot_travel_is_refused_by_name() -> None:
    from vllm.multimodal.inputs import MultiModalKwargsItems

    def reward(text: str) -> float:
        return len(text)

    for value, why in (
        (reward, "function .*reward cannot be sent"),
        (MultiModalKwargsItems, "class MultiModalKwargsItems cannot be sent"),
        (MultiModalKwargsItems({"image": [object()]}), r"builtins\.object cannot be sent"),
        (object(), r"builtins\.object cannot be sent"),
    ):
        with pytest.raises(TypeError, match=why):
            across({"nested": [value]})


def test_rendered_multimodal_prompts() -> None:
    """As vLLM's server hands them to its engine."""
    import torch
    from vllm.inputs.engine import mm_input
    from vllm.multimodal.inputs import (
        MultiModalBatchedField,
        MultiModalFieldElem,
        MultiModalFlatField,
        MultiModalKwargsItem,
        MultiModalKwargsItems,
        MultiModalSharedField,
        PlaceholderRange,
    )

    fields = [
        MultiModalBatchedField(),
        MultiModalFlatField(slices=[slice(0, 2), (slice(None), slice(1, None, 2))], dim=1),
        MultiModalSharedField(batch_size=3, keep_on_cpu=True),
    ]
    pixels = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    item = MultiModalKwargsItem({f"f{n}": MultiModalFieldElem([pixels, pixels], f) for n, f in enumerate(fields)})
    place = PlaceholderRange(1, 2, torch.tensor([True, False]))
    rendered = mm_input([5, 9, 9], MultiModalKwargsItems({"image": [item, None]}), {"image": ["h"]}, {"image": [place]})
    back = across(rendered)
    assert type(back["mm_kwargs"]) is MultiModalKwargsItems and back["mm_hashes"] == {"image": ["h"]}
    first, second = back["mm_kwargs"]["image"]
    assert second is None and type(first) is MultiModalKwargsItem and first == item
    assert [elem.field for elem in first.values()] == fields
    (found,) = back["mm_placeholders"]["image"]
    assert (found.offset, found.length, found.is_embed.tolist()) == (1, 2, [True, False])


def test_what_holds_itself_is_refused() -> None:
    from vernal_worker.engine import wire

    itself: list[Any] = []
    itself.append(itself)
    for value in (itself, {"a": itself}):
        with pytest.raises(TypeError, match="holds itself"):
            wire.pack(value)


@pytest.mark.parametrize("cumulative", [True, False])
def test_outputs_travel_as_differences(cumulative: bool) -> None:
    from vernal_worker.client.outputs import Assembly
    from vernal_worker.engine import wire
    from vernal_worker.engine.api import _Differences
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.metrics.stats import RequestStateStats

    stats, prompt_ids = RequestStateStats(arrival_time=1.5), [5, 6, 7]
    differences, assembly = _Differences(4), Assembly(cumulative)
    sizes, found = [], []
    for number, text in enumerate(["one ", "two ", "three"]):
        last = number == 2
        stats.num_generation_tokens += 1
        completion = CompletionOutput(
            0,
            text,
            [number],
            -0.5 * number,
            [{number: Logprob(-0.5, 1, text)}],
            finish_reason="length" if last else None,
        )
        prompt_logprobs = [None, {6: Logprob(-1.0)}] if number == 0 else []
        output = RequestOutput("id", "prompt", prompt_ids, prompt_logprobs, [completion], last, stats)
        message = wire.encoder()(wire.Batch([differences.of(output)], 1, 0))
        sizes.append(len(message))
        (event,) = wire.program_decoder()(message).events
        assert isinstance(event, wire.Output) and event.number == 4
        found.append(assembly.add(event))
    assert sizes[1] < sizes[0] / 2, "what is known already is not sent again"
    assert [output.outputs[0].text for output in found] == (
        ["one ", "one two ", "one two three"] if cumulative else ["one ", "two ", "three"]
    )
    whole = found[-1]
    assert (whole.request_id, whole.prompt, whole.prompt_token_ids, whole.finished) == ("id", "prompt", [5, 6, 7], True)
    assert whole.outputs[0].token_ids == ([0, 1, 2] if cumulative else [2])
    assert len(whole.outputs[0].logprobs) == (3 if cumulative else 1)
    assert (whole.outputs[0].finish_reason, whole.outputs[0].cumulative_logprob) == ("length", -1.0)
    assert whole.prompt_logprobs == ([None, {6: Logprob(-1.0)}] if cumulative else [])
    assert (whole.metrics.num_generation_tokens, whole.metrics.arrival_time) == (3, 1.5)


def test_outputs_of_pooling() -> None:
    import torch
    from vernal_worker.client.outputs import pooled
    from vernal_worker.engine import wire
    from vernal_worker.engine.api import _pooled
    from vllm.outputs import PoolingOutput, PoolingRequestOutput

    output = PoolingRequestOutput("id", PoolingOutput(torch.tensor([0.25, 0.5])), [1, 2], 0, True)
    batch = wire.program_decoder()(wire.encoder()(wire.Batch([_pooled(3, output)], 0, 0)))
    (event,) = batch.events
    assert isinstance(event, wire.Pooled) and event.number == 3
    assert vars(pooled(event)) == vars(output)


def test_what_is_not_on_the_list_does_not_travel() -> None:
    from vernal_worker.engine import wire

    for value in (object(), print, ValueError("x"), type):
        with pytest.raises(TypeError, match="cannot be sent"):
            wire.pack([{"deep": value}])
    evil = [
        msgspec.msgpack.Ext(16, msgspec.msgpack.encode(["subprocess.Popen", {"args": ["touch", "/tmp/evil"]}])),
        msgspec.msgpack.Ext(17, msgspec.msgpack.encode(["builtins.eval", "1"])),
        msgspec.msgpack.Ext(18, msgspec.msgpack.encode(["|O", [1], b"12345678"])),
        msgspec.msgpack.Ext(19, msgspec.msgpack.encode(["load", [1], b"1"])),
        msgspec.msgpack.Ext(20, msgspec.msgpack.encode("load")),
        msgspec.msgpack.Ext(21, msgspec.msgpack.encode(["P", [1, 1], b"1"])),
        msgspec.msgpack.Ext(99, msgspec.msgpack.encode([])),
    ]
    for content in evil:
        with pytest.raises((msgspec.DecodeError, ValueError), match=r"not accepted|unknown extension"):
            wire.engine_decoder()(wire.encoder()(wire.Call(1, "m", [content], {})))
    for junk in (b"", b"\x80\x04\x95", msgspec.msgpack.encode(["nothing", 1]), msgspec.msgpack.encode(["call", "x"])):
        with pytest.raises(msgspec.DecodeError):
            wire.engine_decoder()(junk)


@pytest.mark.parametrize(
    "code, content",
    [
        (2, [[]]),  # a set of what has no hash
        (4, [[1]]),  # a dictionary whose entries are no pairs
        (16, ["vllm.sampling_params.SamplingParams", {"n": 0}]),
        (16, ["vllm.sampling_params.SamplingParams", 5]),
        (16, ["vllm.logprobs.Logprob", {"no_such_field": 1}]),
        (16, [["a list"], {}]),
        (17, ["vllm.sampling_params.RequestOutputKind", 99]),
        (17, ["vllm.sampling_params.SamplingParams", 1]),  # no enumeration
        (18, ["<f8", [2**40], b"12345678"]),
        (18, ["no such type", [1], b"12345678"]),
        (18, 5),
        (19, ["float32", [3], b"123"]),
        (19, ["float32", [2**62, 2**62], b""]),
        (19, [b"\xff", [1], b""]),
        (20, "load"),
        (21, ["RGB", [1, 1], b"12"]),
        (21, ["RGB", [2**20, 2**20], b"123"]),
        (21, ["1", [-1, -1], b"1"]),
        (21, ["RGB", "1", b"123"]),
        (21, ["no mode", [1, 1], b"1"]),
        (22, [1, 2]),
        (23, ["vllm.multimodal.inputs.MultiModalKwargsItem", 5]),
        (23, ["vllm.sampling_params.SamplingParams", {}]),
    ],
)
def test_what_cannot_be_made_of_a_message_is_one_class_of_error(code: int, content: Any) -> None:
    """Whatever numpy, torch and constructors raise: who reads the message has to answer it."""
    from vernal_worker.engine import wire

    value = msgspec.msgpack.Ext(code, msgspec.msgpack.encode(content))
    with pytest.raises(msgspec.DecodeError):
        wire.engine_decoder()(wire.encoder()(wire.Call(1, "m", [value], {})))
    with pytest.raises(msgspec.DecodeError):
        wire.program_decoder()(wire.encoder()(wire.Batch([wire.Result(1, value)], 0, 0)))


@pytest.mark.parametrize("data", [b"\x91" * 20_000 + b"\x90", b"\x92\xa6cancel\xa1\xff"], ids=["no end", "no UTF-8"])
def test_what_is_no_message_is_the_same_class_of_error(data: bytes) -> None:
    from vernal_worker.engine import wire

    for decode in (wire.engine_decoder(), wire.program_decoder()):
        with pytest.raises(msgspec.DecodeError):
            decode(data)


def test_errors() -> None:
    from vernal_worker.engine import errors
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    class OurOwnError(KeyError):
        pass

    class ForeignError(Exception):
        pass

    def back(error: Exception) -> Exception:
        return errors.unpack(msgspec.msgpack.decode(msgspec.msgpack.encode(errors.pack(error)), type=type(packed)))

    packed = errors.pack(ValueError("x"))
    validation = back(VLLMValidationError("too long", parameter="p", value=3))
    assert isinstance(validation, VLLMValidationError)
    assert (validation.parameter, validation.value) == ("p", 3)
    assert type(back(OurOwnError("k"))) is KeyError and back(OurOwnError("k")).args == ("k",)
    assert type(back(Exception("plain"))) is Exception
    foreign = back(ForeignError("why"))
    assert type(foreign) is errors.RemoteError and "ForeignError" in str(foreign) and "why" in str(foreign)
    assert isinstance(back(EngineDeadError()), EngineDeadError)
    missing = back(FileNotFoundError(2, "No such file"))
    assert isinstance(missing, FileNotFoundError) and missing.errno == 2
    try:
        raise EngineGenerateError from ZeroDivisionError("cause")
    except EngineGenerateError as error:
        assert isinstance(back(error).__cause__, ZeroDivisionError)


def test_errors_say_where_they_were_raised() -> None:
    import traceback

    from vernal_worker.engine import errors

    class OurOwnError(KeyError):
        pass

    def deep_in_the_engine() -> None:
        raise OurOwnError("k")

    with pytest.raises(OurOwnError) as raised:
        deep_in_the_engine()
    back = errors.unpack(errors.pack(raised.value))
    shown = "".join(traceback.format_exception(back))
    assert type(back) is KeyError
    assert "In the engine's process:" in shown and "in deep_in_the_engine" in shown and "OurOwnError" in shown
    assert not hasattr(errors.unpack(errors.pack(ValueError("never raised"))), "__notes__")


def test_an_event_that_cannot_be_sent_takes_no_other_with_it() -> None:
    from vernal_worker.engine import wire

    told: list[tuple[Any, str]] = []

    def instead(event: Any, error: Exception) -> Any:
        told.append((event.number, str(error)))
        return wire.End(event.number)

    events: list[Any] = [wire.Result(1, "one"), wire.Result(2, object()), wire.Result(3, 2**70), wire.End(4)]
    data = wire.encode_batch(wire.encoder(), wire.Batch(events, 5, 6), instead)
    batch = wire.program_decoder()(data)
    assert batch == wire.Batch([wire.Result(1, "one"), wire.End(2), wire.End(3), wire.End(4)], 5, 6)
    assert [number for number, _ in told] == [2, 3] and "object" in told[0][1]
