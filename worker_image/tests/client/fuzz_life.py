"""Calls in random order of one engine, until it is ended."""

import asyncio
import gc
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leaks
from fuzz_malformed import CALLS, PROMPT, REFUSED, REQUESTS, greedy
from fuzz_plan import Step
from fuzz_tally import Tally
from programs import ENGINE_ARGS, Frozen, Namespace, children, keeper_of

IN_FLIGHT = 24
"""Calls at once, at most."""
PATIENCE_SECONDS = 300.0
"""For a call to end when nothing holds it back any more. The library's own bounds are shorter: two minutes for an
engine that says nothing, the checkpoint's time-outs."""
DRAIN_SECONDS = (0.05, 1.0, 30.0)
_WORKER_DIED = "method failed: cancelled"
"""vLLM's own end of a call to its workers when one of them dies meanwhile: as AsyncLLM gives it, before it is dead."""


def nothing_expected(_: Exception) -> bool:
    return False


def blocks_are_held(error: Exception) -> bool:
    """vLLM's caches cannot be emptied while a streamed prompt is between two parts: AsyncLLM says the same."""
    return type(error) is Exception and "method failed: Failed to reset KV cache" in str(error)


@dataclass
class Call:
    """One that is in flight."""

    step: Step
    name: str
    expects: Callable[[Exception], bool]
    began: float
    cancelled: bool = False


class Life:
    """One engine, until it is ended, and the calls that it gets meanwhile."""

    def __init__(self, llm: Any, place: Frozen, tally: Tally) -> None:
        self.llm, self.ending, self.gone = llm, False, False
        self.namespace = Namespace(keeper_of(os.getpid()))
        self._place, self._tally = place, tally
        self._flying: dict[asyncio.Task[None], Call] = {}
        self._endings = self._being_ended = 0
        """How many calls have ended requests, and how many are at it."""
        self._made: list[Path] = []
        self._open = self._descriptors()

    # --- calls ---

    async def do(self, step: Step) -> None:
        """Begin a call; of those that end the engine, see the end."""
        while len(self._flying) >= IN_FLIGHT:
            await self._some_end()
        draw = random.Random(step.chance)
        match step.kind:
            case "cancel":
                await self._cancel(step, draw)
            case "abort":
                ids = [str(call.step.number) for call in self._flying.values()] or ["unknown"]
                chosen = draw.choice(ids) if draw.random() < 0.8 else ids
                self._start(step, lambda: self.llm.abort(chosen), ends=True)
            case "kill":
                await self._kill(step, draw)
            case "close" | "shutdown" | "delete":
                await self._close(step, draw)
            case kind if kind.startswith("freeze"):
                await self._freeze(step, draw)
            case "malformed request":
                bad = draw.choice(REQUESTS)
                name, expects = f"{step.kind}: {bad.name}", bad.expects
                self._start(step, lambda: _last(bad.make(self.llm)), expects, name, fails=True)
            case "malformed call":
                bad = draw.choice(CALLS)
                name, expects = f"{step.kind}: {bad.name}", bad.expects
                self._start(step, lambda: bad.make(self.llm), expects, name, fails=True)
            case _:
                self._start(step, *self._served(step, draw))
        if draw.random() < 0.5:
            await asyncio.sleep(draw.choice((0, 0, 0.001, 0.01)))

    def _served(
        self, step: Step, draw: random.Random
    ) -> tuple[Callable[[], Awaitable[Any]], Callable[[Exception], bool]]:
        """A call that an engine answers, and what else may come of it."""
        llm, number = self.llm, str(step.number)
        # As of now: before its task has run, the next step may be what aborts it.
        endings = None if self._being_ended else self._endings
        plain: dict[str, Callable[[], Awaitable[Any]]] = {
            "generate": lambda: self._generate(number, draw, endings),
            "generate, left early": lambda: self._left(number, draw),
            "generate, streamed input": lambda: self._streamed(number, draw, endings),
            "add_request": lambda: self._collected(number, draw),
            "check_health": llm.check_health,
            "is_paused": llm.is_paused,
            "is_sleeping": llm.is_sleeping,
            "pause_generation": lambda: self._ends(llm.pause_generation(mode=draw.choice(("abort", "keep", "wait")))),
            "resume_generation": llm.resume_generation,
            "sleep": lambda: self._ends(llm.sleep(draw.choice((0, 1, 2)), draw.choice(("abort", "keep", "wait")))),
            "wake_up": lambda: llm.wake_up(draw.choice((None, None, ["weights"], ["kv_cache"]))),
            "reset caches": lambda: draw.choice(
                (llm.reset_prefix_cache, llm.reset_mm_cache, llm.reset_encoder_cache)
            )(),
            "collective_rpc": lambda: llm.collective_rpc("check_health"),
            "what it knows": self._knows,
            "metrics": lambda: asyncio.to_thread(_scrape),
        }
        if step.kind == "encode":
            from vllm import PoolingParams

            params = PoolingParams(task="embed")
            return lambda: _last(llm.encode(PROMPT, params, number)), lambda error: isinstance(error, REFUSED)
        return plain[step.kind], blocks_are_held if step.kind in ("pause_generation", "sleep") else nothing_expected

    def _start(
        self,
        step: Step,
        work: Callable[[], Awaitable[Any]],
        expects: Callable[[Exception], bool] = nothing_expected,
        name: str = "",
        *,
        fails: bool = False,
        ends: bool = False,
    ) -> None:
        """`fails`: an answer would be a fault."""
        if ends:
            self._endings += 1
        call = Call(step, name or step.kind, expects, time.monotonic())
        task = asyncio.ensure_future(self._watched(call, work, fails))
        self._flying[task] = call
        task.add_done_callback(self._flying.pop)

    async def _watched(self, call: Call, work: Callable[[], Awaitable[Any]], fails: bool) -> None:
        outcome, fault = "answered", ""
        try:
            answer = await work()
            if fails:
                fault = f"it was answered with {answer!r:.200}"
            elif isinstance(answer, str):
                outcome = answer
        except asyncio.CancelledError:
            outcome = "cancelled"
            if not call.cancelled:
                fault = "it was cancelled by nobody"
        except Exception as error:
            outcome = type(error).__name__
            if not call.expects(error) and not self._explained(call, error):
                fault = f"{type(error).__module__}.{outcome}: {error}"
        self._tally.add(call.step.kind, outcome, time.monotonic() - call.began)
        if fault:
            self._fault(f"{call.name} (call {call.step.number}): {fault}")

    def _explained(self, call: Call, error: Exception) -> bool:
        """By the end of the engine."""
        from vernal_worker.client import EngineFailedError
        from vllm.v1.engine.exceptions import EngineDeadError

        if not self.ending:
            return False
        if str(error).endswith(_WORKER_DIED):
            return True
        return isinstance(error, (EngineFailedError, EngineDeadError) if "freeze" in call.name else EngineDeadError)

    def _fault(self, text: str) -> None:
        self._tally.fault(text)

    # --- requests ---

    async def _generate(self, number: str, draw: random.Random, endings: int | None) -> str:
        """`endings`: how many there had been when it began; None: there was one at that time."""
        from vllm.sampling_params import RequestOutputKind

        n, tokens, kind = draw.choice((1, 1, 1, 2)), draw.randint(1, 8), draw.choice(list(RequestOutputKind))
        params = greedy(max_tokens=tokens, n=n, output_kind=kind, temperature=draw.choice((0, 1.0)) if n == 1 else 1.0)
        counts: Counter[int] = Counter()
        reasons: dict[int, str | None] = {}
        finished = False
        async for output in self.llm.generate(PROMPT, params, number):
            if finished:
                self._fault(f"generate (call {number}): an output after the last")
            finished = output.finished
            for part in output.outputs:
                count = len(part.token_ids)
                counts[part.index] = counts[part.index] + count if kind is RequestOutputKind.DELTA else count
                reasons[part.index] = part.finish_reason or reasons.get(part.index)
        aborted = "abort" in reasons.values() or (not reasons and finished)
        if aborted:
            if endings == self._endings:
                self._fault(f"generate (call {number}): aborted by nobody")
            return "aborted"
        if not finished or dict(counts) != dict.fromkeys(range(n), tokens):
            self._fault(f"generate (call {number}): {dict(counts)} of {n} times {tokens} tokens, finished: {finished}")
        return "answered"

    async def _left(self, number: str, draw: random.Random) -> None:
        outputs = self.llm.generate(PROMPT, greedy(max_tokens=64), number)
        some = draw.randint(0, 2)
        try:
            while some:
                await anext(outputs)
                some -= 1
        except StopAsyncIteration:
            pass  # it was aborted
        finally:
            await outputs.aclose()

    async def _streamed(self, number: str, draw: random.Random, endings: int | None) -> str:
        from vllm.engine.protocol import StreamingInput
        from vllm.sampling_params import RequestOutputKind

        async def inputs() -> AsyncIterator[Any]:
            for token in range(draw.randint(1, 3)):
                yield StreamingInput(prompt={"type": "token", "prompt_token_ids": [5 + token, 9]})
                await asyncio.sleep(0)

        params = greedy(max_tokens=3, output_kind=RequestOutputKind.DELTA)
        reason = None
        async for output in self.llm.generate(inputs(), params, number):
            reason = output.outputs[0].finish_reason
        if reason != "abort":
            return "answered"
        if endings == self._endings:
            self._fault(f"generate, streamed input (call {number}): aborted by nobody")
        return "aborted"

    async def _collected(self, number: str, draw: random.Random) -> None:
        queue = await self.llm.add_request(number, PROMPT, greedy(max_tokens=draw.choice((4, 64))))
        try:
            for _ in range(draw.randint(0, 2)):
                if (await queue.get()).finished:
                    break
        finally:
            queue.close()

    async def _ends(self, call: Awaitable[Any]) -> None:
        """Requests may be ended until it is done."""
        self._endings += 1
        self._being_ended += 1
        try:
            await call
        finally:
            self._being_ended -= 1

    async def _knows(self) -> None:
        llm = self.llm
        llm.check_admission(1)
        assert llm.model_config.max_model_len == ENGINE_ARGS["max_model_len"]
        assert llm.vllm_config.cache_config.num_gpu_blocks == ENGINE_ARGS["num_gpu_blocks_override"]
        assert llm.get_num_unfinished_requests() >= 0 and llm.get_num_queued_tokens() >= 0
        assert llm.is_running is not llm.errored
        assert "generate" in await llm.get_supported_tasks()

    async def _cancel(self, step: Step, draw: random.Random) -> None:
        if self._flying:
            task = draw.choice(list(self._flying))
            self._flying[task].cancelled = True
            task.cancel()
        self._tally.add(step.kind, "answered" if self._flying else "nothing to cancel", 0.0)

    # --- a freeze ---

    async def _freeze(self, step: Step, draw: random.Random) -> None:
        from vernal_worker.client import EngineFailedError

        place: str | Path
        if step.kind == "freeze":
            self._made.append(place := self._place.place / f"again-{step.number}")
        else:
            place = self._place.directory if step.kind == "freeze, there already" else "/proc/no/such/place"
        impossible = step.kind == "freeze, impossible"

        def expects(error: Exception) -> bool:
            # What was drawn before it may hold requests: a pause, a sleep.
            drained = isinstance(error, TimeoutError) and str(error).startswith("not frozen: ")
            asleep = isinstance(error, EngineFailedError) and error.reason == "FreezeGivenUp"
            return drained or asleep or (impossible and isinstance(error, EngineFailedError))

        drain = draw.choice(DRAIN_SECONDS)
        self._start(step, lambda: self._frozen(place, drain), expects)

    async def _frozen(self, place: str | Path, drain: float) -> None:
        report = await self.llm.freeze(place, drain_timeout=drain)
        assert report.freeze is not None, report

    # --- its end ---

    async def _kill(self, step: Step, draw: random.Random) -> None:
        """SIGKILL for any of its processes, the one outside of its namespace among them. The calls in flight end, and
        then the engine serves all the same, or says that it is gone."""
        from vllm.v1.engine.exceptions import EngineDeadError

        began = time.monotonic()
        processes = self.namespace.processes()
        outside = [pid for pid in children(os.getpid()) if any(pid == parent for parent in map(_parent, processes))]
        victim = draw.choice(sorted([*processes, *outside]))
        self.ending = True
        self._endings += 1
        self._tally.killed[_short(processes.get(victim, "unshare"))] += 1
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        await self.settle()
        try:
            await asyncio.wait_for(self.llm.check_health(), PATIENCE_SECONDS)
            outcome = "still serves"
        except EngineDeadError:
            outcome = "dead"
            if not self.llm.errored:
                self._fault(f"kill (call {step.number}): dead, and errored is not set")
        except Exception as error:
            outcome = type(error).__name__
            self._fault(f"kill (call {step.number}): check_health: {outcome}: {error}")
        await self.llm.close()
        self._tally.add(step.kind, outcome, time.monotonic() - began)
        await self.after("kill")

    async def _close(self, step: Step, draw: random.Random) -> None:
        """With calls in flight, but for `delete`: these know it."""
        began = time.monotonic()
        if step.kind == "delete" or draw.random() < 0.5:
            await self.settle()
            await self._look()
        self.ending = True
        self._endings += 1
        match step.kind:
            case "close":
                await self.llm.close(draw.choice((None, 0, 5.0)))
            case "shutdown":
                self.llm.shutdown(draw.choice((None, 0)))
            case "delete":
                self.llm = None
                gc.collect()
        if self.llm is not None:
            await self._settled(wake=False)
            if not self.llm.errored:
                self._fault(f"{step.kind} (call {step.number}): errored is not set")
        self._tally.add(step.kind, "answered", time.monotonic() - began)
        await self.after(step.kind)

    async def _look(self) -> None:
        """At an engine that has nothing to do."""
        await self.llm.check_health()
        count, tokens = self.llm.get_num_unfinished_requests(), self.llm.get_num_queued_tokens()
        if count or tokens:
            self._fault(f"with nothing in flight, the engine has {count} requests and {tokens} tokens")
        if (runs := self.llm._what_runs()) or self.llm._gate._running:
            self._fault(f"with nothing in flight, the program waits for {runs or self.llm._gate._running}")
        for name, more in (self._descriptors() - self._open).items():
            if more > IN_FLIGHT:  # ZeroMQ keeps a few
                self._fault(f"{name}: {more} more descriptors than at first")

    def _descriptors(self) -> Counter[str]:
        """How many each program of the engine has open."""
        found: Counter[str] = Counter()
        for pid, command in self.namespace.processes().items():
            with suppress(OSError):
                found[_short(command)] += len(leaks.descriptors(pid))
        return found

    # --- waiting ---

    async def settle(self) -> None:
        """Until no call is in flight; nothing is asleep or paused after it."""
        await self._settled(wake=True)

    async def _some_end(self) -> None:
        count = len(self._flying)
        await asyncio.wait(self._flying, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        if len(self._flying) == count:
            await self._settled(wake=True)

    async def _settled(self, wake: bool) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        waking: asyncio.Task[None] | None = None
        while self._flying or (waking is not None and not waking.done()):
            if wake and (waking is None or waking.done()):
                waking = asyncio.ensure_future(self._wake())
            await asyncio.wait([*self._flying, *([waking] if waking is not None else [])], timeout=1.0)
            if time.monotonic() > deadline:
                names = [f"{call.name} (call {call.step.number})" for call in self._flying.values()]
                self._fault(f"hangs: {', '.join(names) or 'waking up'} for {PATIENCE_SECONDS:g} s")
                for call in self._flying.values():
                    call.cancelled = True  # by the end of this loop
                raise HangError

    async def _wake(self) -> None:
        """Whatever may be asleep or paused."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self.llm.wake_up()
            await self.llm.resume_generation()
        except EngineDeadError:
            pass  # which the calls in flight say
        except Exception as error:
            if not (self.ending and str(error).endswith(_WORKER_DIED)):
                self._fault(f"waking up: {type(error).__name__}: {error}")

    async def after(self, end: str) -> None:
        """What must be gone with the engine."""
        self.gone = True
        if left := self.namespace.processes():
            self._fault(f"{end}: processes are left: {left}")
        self.namespace.close()
        if self._flying:
            self._fault(f"{end}: calls are in flight: {[call.name for call in self._flying.values()]}")
        if readers := [*self._place.directory.glob("**/readers/*")]:
            self._fault(f"{end}: {readers} hold a checkpoint")
        for place in self._made:
            shutil.rmtree(place, ignore_errors=True)


class HangError(Exception):
    """A call has not ended."""


async def _last(outputs: Any) -> Any:
    return [output async for output in outputs]


def _scrape() -> None:
    from prometheus_client import REGISTRY, generate_latest

    generate_latest(REGISTRY)


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _short(command: str) -> str:
    words = command.split()
    for word in words:
        if "vernal_worker" in word or "VLLM" in word or "EngineCore" in word or "resource_tracker" in word:
            return word
    return words[0].rpartition("/")[2] if words else "?"
