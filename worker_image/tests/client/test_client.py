"""What a program sees of CheckpointableAsyncLLM: the same as of AsyncLLM."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from patience import GUARD_SECONDS
from patient import PATIENT
from programs import ENGINE_ARGS, Frozen, Namespace, children, keeper_of

PROMPT = "A worker that has served before"


def greedy(**options: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**{"temperature": 0, "max_tokens": 24, "ignore_eos": True, **options})


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """What a request holds on to: `held(hold)` is in flight until it is unlinked."""
    (tmp_path / "hold").touch()
    return tmp_path / "hold"


def held(hold: Path) -> Any:
    return greedy(extra_args={"hold": str(hold)})


def release(hold: Path) -> None:
    hold.unlink()


async def outputs(llm: Any, request_id: str, params: Any, prompt: Any = PROMPT) -> list[Any]:
    return [output async for output in llm.generate(prompt, params, request_id)]


def whole(found: list[Any]) -> bool:
    """However many pieces it came in: what waits for a slow reader is put together."""
    return found[-1].finished and len(found[-1].outputs[0].token_ids) == greedy().max_tokens


@pytest.fixture
async def llm(frozen: Frozen) -> AsyncIterator[Any]:
    from vernal_worker.client import CheckpointableAsyncLLM

    async with await CheckpointableAsyncLLM.thaw(frozen.directory, checkpoint=PATIENT) as engine:
        yield engine


async def running(llm: Any, count: int) -> None:
    """Wait until vLLM has so many requests."""
    async with asyncio.timeout(GUARD_SECONDS):
        while True:
            await llm.check_health()  # brings the engine's count along
            if llm.get_num_unfinished_requests() == count:
                return
            await asyncio.sleep(0.02)


async def settled(llm: Any) -> None:
    await running(llm, 0)


async def test_outputs_of_each_kind(llm: Any, frozen: Frozen) -> None:
    from vllm.sampling_params import RequestOutputKind

    assert llm.report.start_mode == "Restored"
    assert [*frozen.directory.glob("**/readers/*")] == [], "whoever collects garbage need not wait any more"
    several = {"n": 2, "logprobs": 2, "prompt_logprobs": 1, "seed": 7, "temperature": 1.0, "max_tokens": 20}
    kinds = [RequestOutputKind.CUMULATIVE, RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY]
    cumulative, delta, final = [await outputs(llm, str(kind), greedy(**several, output_kind=kind)) for kind in kinds]
    (whole,) = final
    assert whole.finished and [output.finished for output in cumulative + delta].count(True) == 2
    assert cumulative and delta  # how many pieces there are depends on the reader: of one that is late, vLLM joins some
    for index in (0, 1):
        expected = whole.outputs[index]
        last = [o for output in cumulative for o in output.outputs if o.index == index][-1]
        parts = [o for output in delta for o in output.outputs if o.index == index]
        assert last.text == expected.text == "".join(part.text for part in parts)
        assert last.token_ids == expected.token_ids == [t for part in parts for t in part.token_ids]
        assert last.logprobs == expected.logprobs == [p for part in parts for p in part.logprobs]
        assert last.finish_reason == expected.finish_reason == parts[-1].finish_reason == "length"
        assert len(expected.token_ids) == 20 and len(expected.logprobs[0]) >= 2
    assert whole.prompt == PROMPT and whole.prompt_token_ids == cumulative[0].prompt_token_ids
    assert whole.prompt_logprobs == cumulative[-1].prompt_logprobs and len(whole.prompt_logprobs) > 3
    assert whole.metrics.num_generation_tokens > 0
    stopped = (
        await outputs(llm, "stop", greedy(stop=[(await outputs(llm, "free", greedy()))[-1].outputs[0].text[5:9]]))
    )[-1]
    assert stopped.outputs[0].finish_reason == "stop" and stopped.outputs[0].stop_reason


async def test_many_at_once_each_get_their_own(llm: Any) -> None:
    prompts = [{"prompt_token_ids": [5 + number, 9, 4]} for number in range(40)]
    alone = [(await outputs(llm, f"alone-{n}", greedy(max_tokens=4), p))[-1] for n, p in enumerate(prompts[:3])]
    together = await asyncio.gather(*(outputs(llm, f"r{n}", greedy(max_tokens=4), p) for n, p in enumerate(prompts)))
    assert [o[-1].request_id for o in together] == [f"r{n}" for n in range(40)]
    assert [o[-1].prompt_token_ids[0] for o in together] == [5 + n for n in range(40)]
    assert [o[-1].outputs[0].token_ids for o in together[:3]] == [o.outputs[0].token_ids for o in alone]


async def test_giving_up_reaches_the_engine(llm: Any, hold: Path) -> None:
    async for _ in (stream := llm.generate(PROMPT, held(hold), "left")):
        break
    await stream.aclose()
    await settled(llm)

    task = asyncio.create_task(outputs(llm, "cancelled", held(hold)))
    await running(llm, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(llm)

    task = asyncio.create_task(outputs(llm, "aborted", held(hold)))
    await running(llm, 1)
    await llm.abort("aborted")
    assert (await task)[-1].outputs[0].finish_reason == "abort"

    queue = await llm.add_request("collected", PROMPT, held(hold))
    assert (await queue.get()).request_id == "collected"
    queue.close()
    await settled(llm)


async def test_errors_keep_their_class(llm: Any) -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.exceptions import EngineDeadError

    with pytest.raises(VLLMValidationError, match="maximum context length") as error:
        await outputs(llm, "long", greedy(), {"prompt_token_ids": [5] * 1025})
    assert error.value.parameter == "input_tokens" and error.value.value == 1025
    with pytest.raises(Exception, match="no_such_method"):
        await llm.collective_rpc("no_such_method")
    with pytest.raises(Exception, match="LoRA is not enabled") as plain:
        await llm.list_loras()
    assert type(plain.value) is Exception, "vLLM's own choice"
    with pytest.raises(AttributeError, match="cannot be called"):
        await llm.call("shutdown")
    with pytest.raises(TypeError, match="cannot be sent"):
        await outputs(llm, "object", greedy(extra_args={"value": object()}))
    altered = greedy()
    altered.temperature = -1.0  # which only the engine notices, when it makes the object
    with pytest.raises(ValueError, match="temperature"):
        await outputs(llm, "altered", altered)
    with pytest.raises(OverflowError):
        await outputs(llm, "big", greedy(), {"prompt_token_ids": [1 << 64]})
    with pytest.raises(OverflowError):
        await llm.collective_rpc("check_health", args=(1 << 64,))
    assert whole(await outputs(llm, "after", greedy()))
    assert not llm.errored
    connection = llm._link.connection
    assert not connection.busy, "nothing waits for the answer to what was not sent"
    connection._socket.send(b"\xc1")  # what MessagePack never uses
    with pytest.raises(EngineDeadError, match="does not understand"):
        while True:
            await outputs(llm, "lost", greedy())
    assert llm.errored


async def test_a_fork_of_the_program_leaves_the_engine_alone(llm: Any) -> None:
    """However it ends."""
    child = os.fork()
    if child == 0:
        try:
            llm._finalizer()
        finally:
            os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    assert whole(await outputs(llm, "after", greedy()))


async def test_every_call_has_an_end(llm: Any) -> None:
    """What vLLM's core cannot read would end its reading, and so every call after it."""
    from vllm.exceptions import VLLMValidationError

    for name, value in (("seed", "x"), ("stop_token_ids", ["x"]), ("max_tokens", "many")):
        altered = greedy()
        setattr(altered, name, value)
        with pytest.raises((VLLMValidationError, ValueError)):
            await outputs(llm, name, altered)
    with pytest.raises(VLLMValidationError, match="cannot read the request"):
        async for _ in llm.generate(PROMPT, greedy(), "priority", priority="high"):
            pass
    with pytest.raises(VLLMValidationError, match=r"below zero|out of vocabulary"):
        await outputs(llm, "below", greedy(), {"prompt_token_ids": [-1]})
    assert whole(await outputs(llm, "after", greedy()))
    await settled(llm)
    with pytest.raises(ValueError, match="enable_fault_tolerance"):
        await llm.handle_fault(None)
    with pytest.raises(TypeError, match="the prompt is None"):
        await outputs(llm, "none", greedy(), None)


async def test_what_the_engine_is_is_known_from_the_start(
    llm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is asked, and after a freeze; without a change of the program's environment."""
    from prometheus_client import REGISTRY, generate_latest
    from vernal_worker.client import async_llm

    def known() -> Any:
        config = llm.vllm_config
        assert config.model_config is llm.model_config and config.scheduler_config is llm.scheduler_config
        assert llm.observability_config.otlp_traces_endpoint is None
        assert llm.log_stats is True and llm.log_requests is False
        assert llm.get_kv_event_sources() == {}
        return config.cache_config.num_gpu_blocks, config.cache_config.block_size, config.model_config.max_model_len

    def counted() -> list[str]:
        text = generate_latest(REGISTRY).decode()
        return [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total")]

    monkeypatch.setattr(async_llm, "_SCRAPE_SECONDS", GUARD_SECONDS)
    at_first = known()
    assert at_first[0] == ENGINE_ARGS["num_gpu_blocks_override"] and at_first[2] == 1024
    assert known() == at_first
    await outputs(llm, "counted", greedy())
    (line,) = counted()
    assert float(line.split()[-1]) == greedy().max_tokens
    await llm.freeze(tmp_path / "again")
    assert known() == at_first
    assert len(counted()) == 1
    await llm.close()
    assert counted() == []


async def test_the_rest_of_the_interface(llm: Any) -> None:
    assert (llm.is_running, llm.is_stopped, llm.errored) == (True, False, False)
    assert "generate" in await llm.get_supported_tasks()
    assert await llm.reset_prefix_cache() is True
    assert await llm.collective_rpc("check_health") == [None]
    assert await llm.is_tracing_enabled() is False
    await llm.pause_generation()
    assert await llm.is_paused() is True
    paused = asyncio.create_task(outputs(llm, "paused", greedy()))
    await running(llm, 1)
    assert not paused.done()
    await llm.resume_generation()
    assert whole(await paused) and await llm.is_paused() is False
    await llm.sleep(1)
    assert await llm.is_sleeping() is True
    await llm.wake_up()
    assert await llm.is_sleeping() is False
    await llm.do_log_stats()
    assert llm.get_tokenizer().encode("hello") and llm.model_config.max_model_len == 1024
    llm.check_admission(1)
    assert whole(await outputs(llm, "awake", greedy()))


async def test_inputs_that_stream(llm: Any) -> None:
    from vllm.engine.protocol import StreamingInput
    from vllm.sampling_params import RequestOutputKind

    async def inputs(broken: bool = False) -> Any:
        for number in range(3):
            yield StreamingInput(prompt={"type": "token", "prompt_token_ids": [5 + number, 9]})
            await asyncio.sleep(0.05)
        if broken:
            raise ZeroDivisionError("the program's own")

    async def at_once() -> Any:
        for number in range(3):
            yield StreamingInput(prompt={"type": "token", "prompt_token_ids": [5 + number, 9]})

    params = greedy(max_tokens=4, output_kind=RequestOutputKind.DELTA)
    async with asyncio.timeout(GUARD_SECONDS):  # parts that come with what they are parts of
        await asyncio.gather(*(outputs(llm, f"at once {n}", params, at_once()) for n in range(20)))
    found = await outputs(llm, "chunks", params, inputs())
    assert sum(len(output.outputs[0].token_ids) for output in found if output.outputs) > 4
    with pytest.raises(ZeroDivisionError):
        await outputs(llm, "broken", params, inputs(broken=True))
    await settled(llm)


@dataclass
class Parts:
    """A prompt whose parts come when the test says so."""

    first: list[int]
    rest: list[list[int]] = field(default_factory=list)
    late: list[list[int]] = field(default_factory=list)
    ends: bool = True
    """After `rest`; else when `end` is set, and `late` comes first."""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    given: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)

    async def inputs(self) -> AsyncGenerator[Any, None]:
        yield _part(self.first)
        await self.go.wait()
        for part in self.rest:
            yield _part(part)
        self.given.set()
        if not self.ends:
            await self.end.wait()
            for part in self.late:
                yield _part(part)


def _part(token_ids: list[int]) -> Any:
    from vllm.engine.protocol import StreamingInput

    return StreamingInput(prompt={"type": "token", "prompt_token_ids": token_ids})


@pytest.mark.parametrize("ending", ["pause_generation", "sleep"])
async def test_streamed_inputs_end_with_what_ends_all_requests(llm: Any, hold: Path, ending: str) -> None:
    """While the first part is answered, however many wait behind it; also when none does. AsyncLLM waits for ever."""
    from vllm.sampling_params import RequestOutputKind

    cases = {
        "one waits": Parts([5, 9], [[6, 9]]),
        "two wait": Parts([5, 9], [[6, 9], [7, 9]]),
        "none waits": Parts([5, 9]),
        "one waits, the end is to come": Parts([5, 9], [[6, 9]], ends=False),
        "one waits, more is to come": Parts([5, 9], [[6, 9]], [[8, 9]], ends=False),
        "none waits, more is to come": Parts([5, 9], [], [[8, 9]], ends=False),
    }
    params = greedy(max_tokens=4, output_kind=RequestOutputKind.DELTA, extra_args={"hold": str(hold)})
    streams = {name: llm.generate(parts.inputs(), params, name) for name, parts in cases.items()}
    async with asyncio.timeout(GUARD_SECONDS):
        for name, parts in cases.items():
            first = await anext(streams[name])
            assert not first.finished and len(first.outputs[0].token_ids) == 1
            parts.go.set()
            await parts.given.wait()
        await llm.check_health()  # its answer comes after all that was sent before is with the core
        assert llm.get_num_unfinished_requests() == len(cases)
        await (llm.pause_generation() if ending == "pause_generation" else llm.sleep(1, "abort"))
        release(hold)
        for name, parts in cases.items():
            parts.end.set()
            (last,) = [output async for output in streams[name]]
            assert (name, last.finished, last.outputs[0].finish_reason) == (name, True, "abort")
            assert not last.outputs[0].token_ids
        await (llm.resume_generation() if ending == "pause_generation" else llm.wake_up())
    await settled(llm)
    assert whole(await outputs(llm, "after", greedy()))
    assert await llm.reset_prefix_cache() is True  # no session holds blocks of it


@pytest.mark.parametrize("victim", ["EngineCore", "engine.main", "client.keeper", "unshare"])
async def test_a_dead_engine_is_an_error_for_all(llm: Any, hold: Path, victim: str) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    tasks = [asyncio.create_task(outputs(llm, f"r{n}", held(hold))) for n in range(3)]
    await running(llm, 3)
    namespace = Namespace(keeper_of(os.getpid()))
    processes = namespace.processes()
    if victim == "unshare":  # outside, and before all others gone
        (pid,) = [parent for parent in children(os.getpid()) if set(children(parent)) & processes.keys()]
    else:
        (pid,) = [pid for pid, command in processes.items() if victim in command]
    os.kill(pid, signal.SIGKILL)
    for task in tasks:
        with pytest.raises(EngineDeadError):
            await asyncio.wait_for(task, GUARD_SECONDS)
    assert llm.errored and llm.is_stopped and isinstance(llm.dead_error, EngineDeadError)
    with pytest.raises(EngineDeadError):
        await outputs(llm, "late", greedy())
    await llm.close()
    assert namespace.processes() == {}
    namespace.close()


async def test_freezing_between_requests(llm: Any, frozen: Frozen, tmp_path: Path, hold: Path) -> None:
    """Running requests are waited for, new ones wait, and a freeze that fails changes nothing."""
    from vernal_worker.client import CheckpointableAsyncLLM, EngineFailedError

    before = (await outputs(llm, "before", greedy()))[-1].outputs[0].text
    task = asyncio.create_task(outputs(llm, "running", held(hold)))
    await running(llm, 1)
    with pytest.raises(TimeoutError, match="request running"):
        await llm.freeze(tmp_path / "again", drain_timeout=0.1)
    given_up = asyncio.create_task(outputs(llm, "given up", held(hold)))
    await running(llm, 2)
    freezing = asyncio.create_task(llm.freeze(tmp_path / "again"))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(outputs(llm, "waiting", greedy()))
    collecting = asyncio.create_task(llm.add_request("collected", PROMPT, greedy()))
    await asyncio.sleep(0)
    await llm.check_health()
    await llm.abort("given up")
    assert (await given_up)[-1].outputs[0].finish_reason == "abort", "which may be what the freeze waits for"
    assert not freezing.done() and not waiting.done() and not collecting.done()
    release(hold)
    report = await freezing
    assert task.done()
    async with asyncio.timeout(GUARD_SECONDS):
        while not (await (await collecting).get()).finished:
            pass
    assert report.freeze.outcome == "Published" and report.freeze.seconds > 0
    assert whole(await task)
    assert (await waiting)[-1].outputs[0].text == before
    nobody_waits = asyncio.create_task(llm.freeze(tmp_path / "third"))
    async with asyncio.timeout(GUARD_SECONDS):
        while llm._link.connection is not None:  # noqa: ASYNC110  # before that, giving it up is in time
            await asyncio.sleep(0.01)
        nobody_waits.cancel()
        await outputs(llm, "held back", greedy())
    assert llm.report is not report and llm.report.freeze.outcome == "Published", "it goes on, and is told of"
    report = await llm.freeze(tmp_path / "again")
    assert report.freeze.reason == "PublishedByOther", "the checkpoint is there already"
    with pytest.raises(EngineFailedError):
        await llm.freeze("/proc/no/such/place")
    await llm.pause_generation()
    with pytest.raises(EngineFailedError, match=r"paused: .*resume_generation\(\) comes first"):
        await llm.freeze(tmp_path / "again")
    await llm.resume_generation()
    await llm.sleep(1)
    with pytest.raises(EngineFailedError, match=r"asleep or paused: wake_up\(\)"):
        await llm.freeze(tmp_path / "again")
    await llm.wake_up()
    assert (await outputs(llm, "after", greedy()))[-1].outputs[0].text == before
    arguments: dict[str, Any] = {**ENGINE_ARGS, "start": "auto", "checkpoint_dir": tmp_path / "again"}
    arguments["checkpoint"] = PATIENT
    async with await CheckpointableAsyncLLM.create(str(frozen.model), **arguments) as other:
        assert other.report.start_mode == "Restored"
        assert (await outputs(other, "x", greedy()))[-1].outputs[0].text == before
        hot = greedy(temperature=1.5, max_tokens=48)
        mine, its = [(await outputs(engine, "hot", hot))[-1].outputs[0].text for engine in (llm, other)]
        assert mine != its
    with pytest.raises(EngineFailedError, match="max_model_len"):
        await CheckpointableAsyncLLM.create(str(frozen.model), **{**arguments, "start": "thaw", "max_model_len": 512})
