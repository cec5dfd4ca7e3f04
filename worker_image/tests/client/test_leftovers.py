"""An engine leaves nothing behind, however it ends, and nothing of the program's is changed."""

import asyncio
import gc
import io
import os
import re
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from leaks import descriptors
from patience import GUARD_SECONDS
from patient import PATIENT
from programs import Frozen, Namespace, children, keeper_of


@pytest.fixture(autouse=True)
def temporary() -> Iterator[None]:
    """A directory of its own for temporary files: what others have in /tmp comes and goes. With a short path, as a
    socket must have."""
    with tempfile.TemporaryDirectory(prefix="left-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", directory)
        yield


def ours() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).iterdir()}


def there() -> Counter[str]:
    """What a start may leave: descriptors, children, temporary files. What other tests had may go meanwhile."""
    gc.collect()
    return Counter([*descriptors(), *(f"child {pid}" for pid in children(os.getpid())), *ours()])


def device(path: str) -> int:
    return Path(path).stat().st_dev


async def use(directory: Path, end: str) -> Namespace:
    from vernal_worker.client import CheckpointableAsyncLLM
    from vllm import SamplingParams

    llm = await CheckpointableAsyncLLM.thaw(directory, checkpoint=PATIENT)
    async for _ in llm.generate("hello", SamplingParams(max_tokens=4, ignore_eos=True), "x"):
        pass
    keeper = keeper_of(os.getpid())
    namespace = Namespace(keeper)
    assert device(f"/proc/{keeper}/root/dev/shm") != device("/dev/shm"), "its own shared memory"
    if end == "close":
        await llm.close()
    elif end == "shutdown":
        llm.shutdown()
        llm.shutdown()
    elif end == "delete":
        del llm
        gc.collect()
    else:
        raise KeyError(end)
    return namespace


@pytest.mark.parametrize("end", ["close", "shutdown", "delete"])
def test_nothing_is_left(frozen: Frozen, end: str) -> None:
    import vernal_worker.client.async_llm  # noqa: F401  # what its import opens is not the engine's

    asyncio.run(asyncio.sleep(0))
    gc.collect()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    before, threads = there(), set(threading.enumerate())
    namespace = asyncio.run(use(frozen.directory, end))
    assert namespace.processes() == {}
    namespace.close()
    assert not there() - before
    assert set(threading.enumerate()) <= threads
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers


def test_a_start_that_nobody_waits_for_any_more_ends(frozen: Frozen, tmp_path: Path) -> None:
    """As after Ctrl-C. It would go on for ever: CRIU does."""
    from vernal_worker.client import CheckpointableAsyncLLM

    criu = tmp_path / "criu"
    criu.write_text(
        f'#!/bin/sh\ncase " $* " in *" restore "*) touch {tmp_path}/reached; exec sleep infinity ;; esac\n'
        f'exec {os.environ["VERNAL_CRIU"]} "$@"\n'
    )
    criu.chmod(0o755)

    async def interrupted() -> Namespace:
        starting = asyncio.create_task(
            CheckpointableAsyncLLM.thaw(frozen.directory, criu=str(criu), checkpoint=PATIENT)
        )
        async with asyncio.timeout(GUARD_SECONDS):
            while not (tmp_path / "reached").exists():
                assert not starting.done(), starting
                await asyncio.sleep(0.02)
        namespace = Namespace(keeper_of(os.getpid()))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        return namespace

    before = there()
    namespace = asyncio.run(interrupted())
    assert namespace.processes() == {}
    namespace.close()
    assert not there() - before


def test_closing_lets_vllm_stop_in_order(frozen: Frozen, tmp_path: Path) -> None:
    """So that its KV connector finishes its transfers."""
    from vernal_worker.client import CheckpointableAsyncLLM

    async def close() -> None:
        with (tmp_path / "log").open("w") as log:
            llm = await CheckpointableAsyncLLM.thaw(frozen.directory, checkpoint=PATIENT, output=log.fileno())
            await llm.close(GUARD_SECONDS)

    asyncio.run(close())
    assert re.search("event=engine_stopped exit_code=0 ", (tmp_path / "log").read_text())


def test_a_failed_start_leaves_nothing(frozen: Frozen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vernal_worker.client import CheckpointableAsyncLLM, EngineFailedError

    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as a notebook has it: none with a descriptor

    before = there()
    with pytest.raises(EngineFailedError, match="NoArtifact"):
        asyncio.run(CheckpointableAsyncLLM.thaw(tmp_path))
    with pytest.raises(EngineFailedError, match="NoArtifact"):
        asyncio.run(CheckpointableAsyncLLM.thaw(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(EngineFailedError, match="StoreUnavailable: checkpoint_dir: /proc/none"):
        asyncio.run(CheckpointableAsyncLLM.create(str(frozen.model), start="auto", checkpoint_dir="/proc/none"))
    with pytest.raises(EngineFailedError, match="HostUnsupported"):
        asyncio.run(CheckpointableAsyncLLM.thaw(frozen.directory, criu="/nonexistent/criu"))
    with monkeypatch.context() as patch:
        (deep := tmp_path / ("x" * 100)).mkdir()
        patch.setattr(tempfile, "tempdir", str(deep))
        with pytest.raises(EngineFailedError, match="HostUnsupported: TMPDIR is too long"):
            asyncio.run(CheckpointableAsyncLLM.thaw(frozen.directory))
        assert ours() == set()
    assert not there() - before
