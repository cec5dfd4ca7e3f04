"""The sequence: prefill saves, decode is the baseline, then every fault, then the control, then policy `fail`."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.tiny import make_tiny_model
from patience import GUARD_SECONDS
from vernal_worker.kv.faults import Fault

from kv_recovery import cases, report
from kv_recovery.cases import ANSWER_TOKENS, Case, Run
from kv_recovery.child import Child, connector, write_fault
from kv_recovery.report import Verdict

ENVIRONMENT = {"OMP_NUM_THREADS": "1"}  # the tiny model gains nothing by more, and a busy machine loses
GPU_ENVIRONMENT = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}  # it would compile a kernel
ENGINE: dict[str, Any] = {
    "dtype": "float32",  # near-ties between tokens are rare then
    "max_model_len": 2048,
    "num_gpu_blocks_override": 64,
    "kv_cache_memory_bytes": 256 << 20,
    "max_num_batched_tokens": 512,  # prompts come in several steps, as long prompts do
    "enforce_eager": True,
}
EXTRA: dict[str, Any] = {
    "load_timeout_seconds": GUARD_SECONDS,
    "lookup_timeout_seconds": GUARD_SECONDS,
    "cooldown_seconds": 0,
}
CASES = {
    "recompute": [*cases.recompute_cases(), *cases.control_cases()],
    "fail": cases.fail_cases(),
}
"""By policy."""


@dataclass
class Bench:
    """Directories, engine arguments and where lines go."""

    work: Path
    say: Callable[[str], None]
    engine: dict[str, Any]
    environment: dict[str, str]

    def plain(self) -> Child:
        return self.child(None, "plain")

    def producer(self) -> Child:
        return self.child(connector(self.store, role="kv_producer", **EXTRA), "prefill")

    def decoder(self, policy: str, name: str = "", **extra: Any) -> Child:
        """With the fault-injecting twin of the connector."""
        write_fault(self.fault, Fault())
        kv_connector = connector(self.store, policy=policy, **EXTRA, **extra, fault_file=str(self.fault))
        return self.child(kv_connector, f"decode-{policy}{name}")

    def child(self, kv_connector: dict[str, Any] | None, name: str) -> Child:
        return Child(self.engine, kv_connector, self.work / f"{name}.log", self.environment)

    def stepwise(self) -> "Bench":
        """The same with an engine that recovers from synchronous loads: vLLM's own choice on a GPU does not."""
        engine = self.engine | {"async_scheduling": False}
        return replace(self, engine=engine, environment=self.environment | {"VLLM_USE_V2_MODEL_RUNNER": "0"})

    @property
    def store(self) -> Path:
        return self.work / "store"

    @property
    def fault(self) -> Path:
        return self.work / "fault.json"


def cpu_bench(work: Path, say: Callable[[str], None]) -> Bench:
    """The tiny model on the CPU."""
    make_tiny_model(work / "model")
    environment = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    return Bench(work, say, {"model": str(work / "model"), **ENGINE}, environment)


def gpu_bench(work: Path, say: Callable[[str], None]) -> Bench:
    """The tiny model on a GPU, in bfloat16, which attention kernels want.

    There a sum depends on how many tokens are computed at once. So one request runs at a time, in steps that begin and
    end where blocks do: then what is computed alone and what is computed after a load are the same calls.
    """
    make_tiny_model(work / "model")
    block = 128
    engine = ENGINE | {
        "dtype": "bfloat16",
        "block_size": block,
        "max_num_batched_tokens": block,
        "max_num_seqs": 1,
        "gpu_memory_utilization": 0.1,
        "kv_cache_memory_bytes": 1 << 30,  # measures no free memory, which other engines change at the same time
    }
    return Bench(work, say, {"model": str(work / "model"), **engine}, GPU_ENVIRONMENT)


def run(bench: Bench) -> list[Verdict]:
    """Everything, one engine after the other; prints the table as it goes."""
    with bench.plain() as child:
        bench.say(f"engine without a connector started in {child.start_seconds:.0f} s")
        baselines = baseline(child)
    with bench.producer() as child:
        bench.say(f"prefill engine started in {child.start_seconds:.0f} s")
        prefill(bench, child)
    verdicts: list[Verdict] = []
    for policy, todo in CASES.items():
        with bench.decoder(policy) as child:
            bench.say(f"decode engine with policy {policy} started in {child.start_seconds:.0f} s")
            verdicts += decode(bench, child, todo, baselines)
    return verdicts


def baseline(child: Child) -> dict[str, Run]:
    """The answers of an engine without a connector."""
    sets = cases.prompts(child.block_tokens)
    return {name: child.run(prompts, ANSWER_TOKENS) for name, prompts in sets.items()}


def prefill(bench: Bench, child: Child) -> None:
    """An engine with the producer's role saves the prompts' blocks."""
    for name, prompts in cases.prompts(child.block_tokens).items():
        if name != "fresh":
            child.run(prompts, 1)
            files = list(bench.store.glob("*/*/*.kv"))
            size = sum(file.stat().st_size for file in files)
            bench.say(f"prefill of {name}: {len(files)} blocks, {size / 2**20:.1f} MiB in the store")


def decode(bench: Bench, child: Child, todo: Iterable[Case], baselines: dict[str, Run]) -> list[Verdict]:
    """An engine with both roles and the fault-injecting twin runs each case with an empty prefix cache of its own."""
    write_fault(bench.fault, Fault())
    verdicts: list[Verdict] = []
    sets = cases.prompts(child.block_tokens)
    for name, prompts in sets.items():
        if name != "fresh":
            child.run(prompts, 1)  # the first run of a shape is slower
    bench.say(report.HEADER)
    for case in todo:
        prompts = sets[case.prompts]
        reference = baselines[case.prompts].seconds
        if case.stored:  # what the same requests take just now when all loads succeed
            write_fault(bench.fault, Fault(load_async=case.fault.load_async))
            reference = child.run(prompts, ANSWER_TOKENS).seconds
        write_fault(bench.fault, case.fault)
        verdict = report.judge(case, child.run(prompts, ANSWER_TOKENS), baselines[case.prompts])
        verdicts.append(verdict)
        bench.say(report.row(verdict, reference))
    return verdicts
