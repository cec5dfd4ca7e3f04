"""The Python API's wire, both ends: a message is refused with one class of error or means the same after writing it,
its lengths make nothing that was not sent, and the connection ends for all that wait, or goes on."""

import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from fuzz.documents import NUMBERS, TEXTS, damaged
from fuzz.limits import bounded
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from patience import GUARD_SECONDS

Ext = msgspec.msgpack.Ext
encode = msgspec.msgpack.encode
numbers = st.sampled_from([number for number in NUMBERS if isinstance(number, float) or -(2**63) <= number < 2**64])
texts = st.sampled_from([text for text in TEXTS if text.isascii()]) | st.text(max_size=4)
scalars = st.none() | st.booleans() | numbers | texts | st.binary(max_size=9)
shapes = st.lists(st.sampled_from((0, 1, 2, 3, -1, 2**31, 2**62, 2**63 - 1)), max_size=4) | scalars
kinds = st.sampled_from(
    ["<f4", "<i8", "|b1", "<c16", "|O", "<M8[ns]", "|V9999999999", "<U99999999", "4f8", "", "f", "=?"]
)
dtypes = st.sampled_from(
    ["float32", "bfloat16", "bool", "quint8", "complex32", "uint8", "bits8", "load", "float8_e4m3fn"]
)
modes = st.sampled_from(["1", "RGB", "L", "I;16", "F", "P", "", "no mode"])
classes = st.sampled_from(
    [
        "vllm.sampling_params.SamplingParams",
        "vllm.sampling_params.RequestOutputKind",
        "vllm.pooling_params.PoolingParams",
        "vllm.logprobs.Logprob",
        "vllm.logprobs.FlatLogprobs",
        "vllm.lora.request.LoRARequest",
        "vllm.multimodal.inputs.MultiModalBatchedField",
        "vllm.multimodal.inputs.MultiModalFieldElem",
        "vllm.multimodal.inputs.MultiModalKwargsItem",
        "vllm.multimodal.inputs.PlaceholderRange",
        "vllm.outputs.PoolingOutput",
        "vllm.sampling_params.StructuredOutputsParams",
        "subprocess.Popen",
    ]
)
fields = st.dictionaries(
    st.sampled_from(
        ["n", "temperature", "stop", "seed", "max_tokens", "logprob", "lora_name", "lora_path", "data", "x"]
    ),
    scalars | st.lists(scalars, max_size=2),
    max_size=3,
)


def extensions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    contents = st.one_of(
        st.tuples(st.sampled_from((1, 2, 3)), st.lists(inner, max_size=3)),
        st.tuples(st.just(4), st.lists(st.lists(inner, min_size=1, max_size=3), max_size=3)),
        st.tuples(st.just(16), st.tuples(classes, fields)),
        st.tuples(st.just(17), st.tuples(classes, scalars)),
        st.tuples(st.just(18), st.tuples(kinds, shapes, st.binary(max_size=16) | st.just(bytes(24)))),
        st.tuples(st.just(19), st.tuples(dtypes, shapes, st.binary(max_size=16) | st.just(bytes(24)))),
        st.tuples(st.just(20), dtypes),
        st.tuples(st.just(21), st.tuples(modes, shapes, st.binary(max_size=16) | st.just(bytes(24)))),
        st.tuples(st.just(22), st.lists(scalars, min_size=3, max_size=3)),
        st.tuples(st.just(23), st.tuples(classes, st.dictionaries(texts, inner, max_size=2) | scalars)),
        st.tuples(st.integers(-128, 127), inner),
    )
    return contents.map(lambda content: Ext(content[0], encode(content[1])))


values = st.recursive(
    scalars,
    lambda inner: (
        extensions(inner)
        | st.lists(inner, max_size=3)
        | st.dictionaries(texts, inner, max_size=2)
        | st.dictionaries(numbers, inner, max_size=2)
    ),
    max_leaves=6,
)
few = st.integers(0, 5) | numbers
names = st.sampled_from(["check_health", "abort", "sleep", "__class__", ""])
deep = st.sampled_from((300, 900, 20_000)).map(lambda levels: b"\x91" * levels + b"\x90")
to_engine = st.one_of(
    st.tuples(st.just("hello")),
    st.tuples(st.just("generate"), few, texts, values, values, st.dictionaries(texts, values, max_size=2)),
    st.tuples(st.just("chunk"), few, values, values),
    st.tuples(st.just("chunks_end"), few),
    st.tuples(st.just("cancel"), few),
    st.tuples(st.just("call"), few, names, st.lists(values, max_size=2), st.dictionaries(texts, values, max_size=2)),
)
pieces = st.tuples(st.just("piece"), few, texts, st.lists(few, max_size=3), values, values, values, values, values)
exceptions = ["builtins.ValueError", "builtins.OSError", "a.B", "vllm.v1.engine.exceptions.EngineDeadError"]
attributes = st.dictionaries(texts | st.sampled_from(["__class__", "args", "errno"]), values, max_size=2)
errors = st.recursive(
    st.none(),
    lambda cause: st.tuples(
        st.lists(st.sampled_from(exceptions), max_size=3), st.lists(values, max_size=3), attributes, cause
    ),
    max_leaves=3,
)
events = st.one_of(
    st.tuples(st.just("welcome"), values, values, values, values, values),
    st.tuples(st.just("output"), few, st.booleans(), st.lists(pieces, max_size=2), values, values),
    st.tuples(st.just("pooled"), few, st.dictionaries(texts, values, max_size=3)),
    st.tuples(st.just("end"), few),
    st.tuples(st.just("result"), few, values),
    st.tuples(st.just("failed"), few, errors),
    st.tuples(st.just("died"), texts),
)
to_program = st.tuples(st.lists(events, max_size=3), few, few)


def written(messages: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    good = messages.map(encode)
    lying = st.builds(lambda length, data: length + data, st.sampled_from(LENGTHS), st.binary(max_size=9))
    return good | good.flatmap(damaged) | lying | deep | st.binary(max_size=99)


LENGTHS = [kind + b"\xff\xff\xff\xff" for kind in (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")]
"""Of a list, an object, bytes, text and an extension: four thousand million."""


@PROFILE
@given(written(to_engine) | written(to_program))
def test_a_message_is_refused_with_one_class_of_error(data: bytes) -> None:
    from vernal_worker.engine import wire

    wire._classes()  # is to be imported once, and not within these bounds
    with bounded():
        for decode in (wire.engine_decoder(), wire.program_decoder()):
            try:
                message = decode(data)
            except msgspec.DecodeError:
                assert isinstance(wire.number_of(data), int | None)
            else:
                assert type(message).__module__ == wire.__name__


@PROFILE
@given(values)
def test_a_value_that_was_read_can_be_sent_on_and_means_the_same(value: Any) -> None:
    from vernal_worker.engine import wire

    decode, write = wire.engine_decoder(), wire.encoder()
    with bounded():
        try:
            call: Any = decode(encode(["call", 1, "m", [value], {}]))
            packed = wire.pack(call.args[0])
        except (msgspec.DecodeError, TypeError):
            return
        once = write(wire.Call(1, "m", [packed], {}))
        again: Any = decode(once)
        assert write(wire.Call(1, "m", [wire.pack(again.args[0])], {})) == once


@PROFILE
@given(st.lists(written(to_program), min_size=1, max_size=4))
def test_the_program_s_end_goes_on_or_ends_for_all_that_wait(batches: list[bytes]) -> None:
    asyncio.run(_converse(batches))


async def _converse(batches: list[bytes]) -> None:
    """A request and a call wait while the engine's end says these things, and then that it has died."""
    import zmq
    import zmq.asyncio
    from vernal_worker.client.connection import Connection
    from vernal_worker.engine import wire
    from vllm import SamplingParams

    context = zmq.asyncio.Context()
    engine = context.socket(zmq.ROUTER)
    with tempfile.TemporaryDirectory(prefix="vernal-fuzz-") as directory:
        path = str(Path(directory) / "api.sock")
        engine.bind(f"ipc://{path}")
        alive = os.pidfd_open(os.getpid())
        connection = Connection(path, alive)
        os.close(alive)
        try:
            async with asyncio.timeout(GUARD_SECONDS):
                peer, _ = await engine.recv_multipart()
                queue = connection.start("r", "prompt", SamplingParams(), {})
                call = asyncio.create_task(connection.call("check_health", (), {}))
                await asyncio.sleep(0)
                for batch in [*batches, wire.encoder()(wire.Batch([wire.Died("the end")], 0, 0))]:
                    await engine.send_multipart([peer, batch])
                while connection.dead is None:  # whatever it is answered with before
                    with suppress(Exception):
                        await connection.call("check_health", (), {})
                with suppress(Exception):
                    await call  # it ends, in whatever way; its turn may come after this one's
                assert not connection.busy
                call.exception()
                await _ended(queue)
        finally:
            connection.close()
            context.destroy(0)


async def _ended(queue: Any) -> None:
    """Whoever waits for outputs is told of the end, after what came before it."""
    try:
        while not (await queue.get()).finished:
            pass
    except Exception:
        return
