"""Calls of CheckpointableAsyncLLM in random order: no call hangs, each exception is of a documented class, and nothing
is left behind by any engine, however it ended."""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3] / "e2e"))  # a program of its own: pytest's paths are not here

import fuzz_plan
import leaks
from fuzz_life import PATIENCE_SECONDS, HangError, Life, nothing_expected
from fuzz_malformed import Malformed, creations
from fuzz_plan import Step
from fuzz_tally import Tally
from programs import ENGINE_ARGS, Frozen, children, small
from vernal_contract.config import CheckpointConfig

_EPILOG = """\
as in:
  make library-fuzz                                    # 10,000 calls
  make library-fuzz LIBRARY_FUZZ="--calls 500 --seed 7"
  python worker_image/tests/client/fuzz_calls.py --help
"""
WARM_LIVES = 2
"""In which Python and vLLM fill caches that stay."""
GROWTH_BYTES = 64 << 20
"""Of the program's memory after these."""
MOST_FAULTS = 20
QUICK = CheckpointConfig(warm_up_seconds=0)
"""What compiles when it is first asked for is not asked for."""
_PROGRESS_SECONDS = 20.0


async def _made(bad: Malformed, subject: Any) -> Any:
    """What raises when it is called does so here."""
    return await bad.make(subject)


class Fuzz:
    """The whole: engines one after the other, and between them what must be as it was before."""

    def __init__(self, place: Frozen, seed: int, calls: int, output: int) -> None:
        """`output`: a descriptor for what the engines write."""
        self.tally = Tally()
        self._place, self._count, self._output = place, calls, output
        self._steps = iter(fuzz_plan.plan(seed, calls))
        self._next = next(self._steps, None)
        self._began = self._shown = time.monotonic()
        self._lives = 0

    def run(self) -> None:
        """Until all calls are made or there are too many faults."""
        import vernal_worker.client.async_llm  # noqa: F401  what its import opens is not an engine's

        asyncio.run(asyncio.sleep(0))
        before: tuple[Counter[str], int] | None = None
        while self._next is not None and len(self.tally.faults) < MOST_FAULTS:
            try:
                asyncio.run(self._live())
            except HangError:
                break
            except Exception as error:
                traceback.print_exc()
                self.tally.fault(f"engine {self._lives + 1}: {type(error).__name__}: {error}")
                break
            self._lives += 1
            found = self._held()
            if before is not None and found != before:
                self.tally.fault(f"after engine {self._lives}: {found} is open, not {before}")
            if self._lives == 1:
                before = found
        grown = self._growth()
        if grown > GROWTH_BYTES:
            self.tally.fault(f"the program's memory has grown by {grown >> 20} MiB")

    def _held(self) -> tuple[Counter[str], int]:
        """Descriptors and threads; what else must not be there is a fault at once."""
        from vernal_worker.client import async_llm, connection, gate, host, metrics

        classes = {
            async_llm.CheckpointableAsyncLLM, async_llm._Link, connection.Connection, connection.Stream,
            connection._Collector, gate.Gate, host.EngineHost, metrics.EngineMetrics,
        }  # fmt: skip
        objects = leaks.objects_of(classes)
        if objects["EngineMetrics"] == 1:  # of an engine that was deleted, until there is another
            del objects["EngineMetrics"]
        if objects:
            self.tally.fault(f"after engine {self._lives}: objects are left: {dict(objects)}")
        place = tempfile.gettempdir()
        if files := os.listdir(place):  # noqa: PTH208
            self.tally.fault(f"after engine {self._lives}: {place} has {files}")
        if points := leaks.mounts(place):
            self.tally.fault(f"after engine {self._lives}: mounted is {points}")
        if processes := children(os.getpid()):
            self.tally.fault(f"after engine {self._lives}: processes are left: {processes}")
        self.tally.resident.append(leaks.resident_bytes())
        return leaks.kinds_of(leaks.descriptors()), leaks.threads()

    def _growth(self) -> int:
        """From the first engines after the warm ones to the last, by medians."""
        found = self.tally.resident[WARM_LIVES:]
        third = len(found) // 3
        return int(statistics.median(found[-third:]) - statistics.median(found[:third])) if third else 0

    async def _live(self) -> None:
        """One engine."""
        from vernal_worker.client import CheckpointableAsyncLLM

        asyncio.get_running_loop().set_exception_handler(self._unheard)
        life: Life | None = None
        while (step := self._next) is not None and len(self.tally.faults) < MOST_FAULTS:
            if life is None and step.kind not in fuzz_plan.WITHOUT_ENGINE:
                began = time.monotonic()
                llm = await CheckpointableAsyncLLM.thaw(self._place.directory, checkpoint=QUICK, output=self._output)
                self.tally.add("thaw", "answered", time.monotonic() - began)
                life = Life(llm, self._place, self.tally)
                del llm
            self._next = next(self._steps, None)
            self._show()
            if step.kind in fuzz_plan.WITHOUT_ENGINE:
                await self._without(step)  # beside the engine that there may be
                continue
            assert life is not None
            await life.do(step)
            if life.gone:
                return
        if life is not None:
            await life.do(Step(self._count, "close", 0.0))

    async def _without(self, step: Step) -> None:
        from vernal_worker.client import CheckpointableAsyncLLM, EngineFailedError

        draw = random.Random(step.chance)
        began = time.monotonic()
        work: Coroutine[Any, Any, Any]
        expects: Callable[[Exception], bool] = nothing_expected
        name, seconds = step.kind, None
        if step.kind == "create, malformed":
            bad = draw.choice(creations(str(self._place.model), {**ENGINE_ARGS, "output": self._output}))
            name, work, expects = f"{name}: {bad.name}", _made(bad, CheckpointableAsyncLLM), bad.expects
        elif step.kind == "thaw, nothing there":
            empty = self._place.place / "empty"
            empty.mkdir(exist_ok=True)
            work = CheckpointableAsyncLLM.thaw(draw.choice((empty, "/proc/no/such/place")), output=self._output)
            expects = lambda error: isinstance(error, EngineFailedError)  # noqa: E731
        else:
            work = CheckpointableAsyncLLM.thaw(self._place.directory, checkpoint=QUICK, output=self._output)
            seconds = draw.choice((0.0, 0.1, 0.5, 1.0, 2.0))
        before = set(children(os.getpid()))
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait([task], timeout=PATIENCE_SECONDS if seconds is None else seconds)
        if not done:
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        outcome = "answered"
        gone = task.cancelled() and await self._goes(before)  # which nobody waits for who has cancelled
        if not done or (task.cancelled() and not gone):
            self.tally.fault(f"hangs: {name} (call {step.number}) for {PATIENCE_SECONDS:g} s")
            raise HangError
        if task.cancelled():
            outcome = "cancelled"
        elif (error := task.exception()) is not None:
            outcome = type(error).__name__
            if not isinstance(error, Exception) or not expects(error):
                self.tally.fault(f"{name} (call {step.number}): {outcome}: {error}")
        elif seconds is None:
            self.tally.fault(f"{name} (call {step.number}): it was answered")
        if outcome == "answered":
            await task.result().close()
        self.tally.add(step.kind, outcome, time.monotonic() - began)

    async def _goes(self, before: set[int]) -> bool:
        """Whether a start that was given up takes its processes with it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while set(children(os.getpid())) - before:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                return True
        return False

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio says when nobody has looked at what became of something."""
        self.tally.fault(f"asyncio: {context.get('message')}: {context.get('exception')!r}")

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown > _PROGRESS_SECONDS:
            self._shown = now
            print(
                f"{now - self._began:5.0f} s: {self.tally.calls} of {self._count} calls, {self._lives + 1} engines,"
                f" {len(self.tally.faults)} faults, {leaks.resident_bytes() >> 20} MiB",
                flush=True,
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="fuzz_calls.py", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000, help="how many (default 10000)")
    parser.add_argument("--seed", type=int, help="of their order (default: another one each time)")
    parser.add_argument("--place", type=Path, help="a directory with `checkpoints` and `model`; else they are made")
    usual = Path(tempfile.gettempdir()) / "library-fuzz.log"
    parser.add_argument("--log", type=Path, default=usual, help=f"for what the engines write (default {usual})")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    os.environ |= small()
    print(f"seed {seed}, {arguments.calls} calls", flush=True)
    with tempfile.TemporaryDirectory(prefix="vernal-fuzz-") as directory:
        (temporary := Path(directory) / "tmp").mkdir()
        with arguments.log.open("w") as output:
            if arguments.place is not None:
                place = Frozen(arguments.place, "")
            else:
                place = asyncio.run(_freeze(Path(directory), output.fileno()))
            tempfile.tempdir = str(temporary)
            began = time.monotonic()
            fuzz = Fuzz(place, seed, arguments.calls, output.fileno())
            fuzz.run()
    tally = fuzz.tally
    memory = [size >> 20 for size in tally.resident]
    print(tally.table())
    print(f"killed: {', '.join(f'{name} {count}' for name, count in tally.killed.most_common())}")
    print(f"memory after each engine: {memory} MiB")
    print(f"{tally.calls} calls, {len(memory)} engines, {time.monotonic() - began:.0f} s, {len(tally.faults)} faults")
    for fault in tally.faults:
        print(f"FAULT {fault}")
    sys.stdout.flush()
    return 1 if tally.faults else 0


async def _freeze(directory: Path, output: int) -> Frozen:
    """A tiny model and its checkpoint, in `directory`."""
    from models.tiny import make_tiny_model
    from vernal_worker.client import CheckpointableAsyncLLM

    print("making a model and its checkpoint", flush=True)
    place = Frozen(directory, "")
    make_tiny_model(place.model)
    options: dict[str, Any] = {**ENGINE_ARGS, "start": "cold", "checkpoint": QUICK, "output": output}
    async with await CheckpointableAsyncLLM.create(str(place.model), **options) as llm:
        await llm.freeze(place.directory)
    return place


if __name__ == "__main__":  # vLLM's children import this again
    sys.exit(main())
