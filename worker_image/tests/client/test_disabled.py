"""Where checkpointing is disabled, it is vLLM's AsyncLLM: no processes but vLLM's, no capabilities, no namespaces."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ENGINE_ARGS

PROGRAM = """
import asyncio, contextlib, json, os, sys
from pathlib import Path
from vernal_worker.client import CheckpointableAsyncLLM, EngineFailedError

def namespaces(pid):
    return {entry.name: os.readlink(entry) for entry in Path(f"/proc/{pid}/ns").iterdir()}

def tree(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended since
            for child in (task / "children").read_text().split():
                found += [child, *tree(child)]
    return found

async def main(model, arguments):
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM
    report = {}
    async with await CheckpointableAsyncLLM.create(model, **json.loads(arguments)) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        async for output in llm.generate("A worker that has served before", params, "request-1"):
            report["tokens"] = len(output.outputs[0].token_ids)
        report["is"] = [isinstance(llm, CheckpointableAsyncLLM), isinstance(llm, AsyncLLM)]
        report["processes"] = len(tree(os.getpid()))
        report["apart"] = [pid for pid in tree(os.getpid()) if namespaces(pid) != namespaces(os.getpid())]
        report["start"] = [llm.report.start_mode, llm.report.start_reason, llm.errored]
        report["health"] = await llm.call("check_health")
        try:
            await llm.freeze("/nowhere")
        except EngineFailedError as error:
            report["freeze"] = str(error)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    report["capabilities"] = int(status["CapEff"], 16)
    print("report", json.dumps(report), flush=True)

if __name__ == "__main__":  # vLLM's children import this again
    asyncio.run(main(*sys.argv[1:]))
"""


def test_a_plain_async_llm(environment: None, tmp_path: Path) -> None:
    """Switched off by the program's environment, in a program that may do nothing that a checkpoint needs."""
    from models.tiny import make_tiny_model

    make_tiny_model(tmp_path / "model")
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, str(tmp_path / "program.py")),
            *(str(tmp_path / "model"), json.dumps(ENGINE_ARGS)),
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={
            **os.environ,
            "VERNAL_START": "disabled",
            "VERNAL_CHECKPOINT_DIR": str(tmp_path / "none"),
            "VERNAL_CRIU": "/nonexistent/criu",
        },
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("report ")]
    report = json.loads(line.removeprefix("report "))
    assert report.pop("processes") > 0
    assert report.pop("freeze").startswith("PolicyDisabled: checkpointing is disabled")
    assert report == {
        "tokens": 8,
        "is": [True, True],
        "apart": [],
        "start": ["Cold", "PolicyDisabled", False],
        "health": None,
        "capabilities": 0,
    }
    assert not (tmp_path / "none").exists()


async def test_what_asyncllm_takes_is_refused_by_name_elsewhere() -> None:
    """Before anything is started."""
    from vernal_worker.client import CheckpointableAsyncLLM
    from vernal_worker.supervisor.engine_args import ArgumentError
    from vllm import AsyncEngineArgs

    arguments = AsyncEngineArgs(model="/nonexistent")
    with pytest.raises(ArgumentError, match="from_engine_args: stat_loggers"):
        CheckpointableAsyncLLM.from_engine_args(arguments, stat_loggers=[print])
    with pytest.raises(ArgumentError, match="from_vllm_config: client_count"):
        CheckpointableAsyncLLM.from_vllm_config(object(), client_count=2)
    with pytest.raises(ArgumentError, match="hf_overrides is a function"):
        await CheckpointableAsyncLLM.create("/nonexistent", hf_overrides=lambda config: config)
    with pytest.raises(ArgumentError, match="NixlConnector"):
        await CheckpointableAsyncLLM.create(
            "/nonexistent", kv_transfer_config={"kv_connector": "NixlConnector", "kv_role": "kv_both"}
        )
