"""Runs rows: makes the model, freezes a worker, thaws another, asks both, and where one says no asks plain vLLM."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.progress import duration, note, say, step
from vernal_contract.config import CheckpointPolicy
from vernal_contract.state import FreezeOutcome, StartMode, WorkerState
from worker_pod import ENGINE_ARGS, Pod

from engines import compare, kinds
from engines.asking import ask_all
from engines.row import GPU, Answer, Asked, Result, Row
from engines.sentence import is_general, own_sentence

_ON_GPU: dict[str, Any] = {
    "gpuMemoryUtilization": 0.2,
    "kvCacheMemoryBytes": 2 << 30,  # so that several of these programs may run side by side on one GPU
    "numGpuBlocksOverride": None,
}
"""Beside the arguments of `worker_pod.ENGINE_ARGS`."""


def run(rows: Sequence[Row], device: str, work: Path, *, keep: bool) -> list[Result]:
    """Every row, one after the other.

    Args:
        work: for models, checkpoints and logs; not in /tmp on a GPU.
        keep: leave checkpoints there; logs stay anyhow.
    """
    results = []
    for number, row in enumerate(rows, 1):
        with step(f"[{number}/{len(rows)}] {row.name} (2 to 5 min)"):
            result = _one(row, device, work / re.sub("[^A-Za-z0-9]+", "-", row.name).strip("-"), keep)  # a shell's word
        say(f"  {row.name}: {'FAILS' if not result.ok else 'cannot' if result.cannot else 'equal'}")
        for text in (*result.found, *(f"vLLM cannot: {sentence}" for sentence in result.cannot)):
            say(f"    {text}")
        results.append(result)
    return results


def _one(row: Row, device: str, work: Path, keep: bool) -> Result:
    result = Result(row.name, device)
    if device not in row.devices:
        return replace(result, cannot=(f"needs a {' or '.join(row.devices).upper()}: not run on this device",))
    shutil.rmtree(work / "store", ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    note("making the model")
    kinds.make(row.model, work / "model")
    with _Pods(row, device, work) as pods:
        try:
            return _compared(row, result, pods)
        finally:
            if not keep:
                shutil.rmtree(work / "store", ignore_errors=True)
                shutil.rmtree(work / "model", ignore_errors=True)


def _compared(row: Row, result: Result, pods: "_Pods") -> Result:
    creator = pods.start("creator")
    if (state := _ready(creator)) is None:
        return _did_not_start(row, result, pods, creator)
    cell, harmed = _frozen(state)
    result = replace(result, frozen=cell, questions=len(row.questions))
    before = ask_all(creator, row)
    creator.end()
    if harmed:
        return replace(result, found=(harmed, *_also(row, before)))
    clone = pods.start("thawed")
    if (state := _ready(clone)) is None:
        return replace(result, thawed="no", found=(f"the thawed worker did not start: {own_sentence(clone.log())}",))
    cell, harmed = _thawed(state)
    result = replace(result, thawed=cell)
    after = ask_all(clone, row)
    clone.end()
    cannot = _plain_cannot(row, pods, before)
    dtype = _arguments(row, result.device).get("dtype", ENGINE_ARGS["dtype"])
    found = compare.found(row, before, after, frozenset(cannot), noise=compare.noise(result.device, str(dtype)))
    if harmed:
        found.insert(0, harmed)
    return replace(result, compared=_amount(row, before, cannot), found=tuple(found), cannot=tuple(_once(cannot)))


def _did_not_start(row: Row, result: Result, pods: "_Pods", creator: Pod) -> Result:
    """Whether plain vLLM can where our worker cannot."""
    note("plain vLLM, since the worker did not start")
    plain = pods.start("plain", policy=CheckpointPolicy.DISABLED)
    if _ready(plain) is None:
        return replace(result, cannot=(own_sentence(plain.log()),))
    plain.end()
    return replace(
        result, frozen="no", found=(f"plain vLLM starts, the worker does not: {own_sentence(creator.log())}",)
    )


def _plain_cannot(row: Row, pods: "_Pods", asked: Asked) -> dict[str, str]:
    """What plain vLLM says to the questions that were not answered and that it does not answer either."""
    if all(answer.status == 200 for answer in asked.answers.values()):
        return {}
    note("plain vLLM, since a question was not answered")
    plain = pods.start("plain", policy=CheckpointPolicy.DISABLED)
    if _ready(plain) is None:
        return {}
    theirs = ask_all(plain, row).answers
    plain.end()
    log = plain.log()
    return {
        name: _sentence(answer, log)
        for name, answer in theirs.items()
        if answer.status != 200 and asked.answers[name].status == answer.status
    }


def _sentence(answer: Answer, log: str) -> str:
    said = compare.message(answer)
    return own_sentence(log) if answer.status == 0 or is_general(said) else said


def _once(cannot: dict[str, str]) -> Iterator[str]:
    """Each sentence once, with the questions that it was the answer to."""
    for sentence in dict.fromkeys(cannot.values()):
        yield f"{', '.join(name for name, said in cannot.items() if said == sentence)}: {sentence}"


def _also(row: Row, asked: Asked) -> Iterator[str]:
    for question in row.questions:
        if (answer := asked.answers[question.name]).status != 200:
            yield f"{question.name}: HTTP {answer.status}: {compare.message(answer)}"


def _amount(row: Row, asked: Asked, cannot: dict[str, str]) -> str:
    looked_at = [answer.content for name, answer in asked.answers.items() if name not in cannot]
    amount = sum(map(compare.size, looked_at), compare.Compared())
    parts = [f"{amount.exact} exactly", f"{amount.near} within noise"]
    parts += [f"{name} {asked.counters[name]:g}" for name in row.counters]
    return ", ".join(parts)


def _frozen(state: WorkerState) -> tuple[str, str]:
    """The table's cell, and why it was not frozen: nothing if it was."""
    if (freeze := state.freeze) is None:
        return f"no: {state.start_reason}", f"not frozen: {state.start_reason}: {state.start_message}"
    if freeze.outcome is not FreezeOutcome.PUBLISHED:
        reason = freeze.reason or freeze.outcome
        return f"no: {reason}", f"not frozen: {reason}: {freeze.message}"
    return f"yes, {duration(freeze.seconds)}" if freeze.seconds is not None else "yes", ""


def _thawed(state: WorkerState) -> tuple[str, str]:
    """As `_frozen`."""
    if state.start_mode != StartMode.RESTORED:
        return f"no: {state.start_reason}", f"not thawed: {state.start_reason}: {state.start_message}"
    return f"yes, {duration(state.timings.get('total', 0.0))}", ""


def _ready(pod: Pod) -> WorkerState | None:
    """The state once it can serve; None if it ended instead."""
    try:
        return pod.wait_ready()
    except AssertionError:
        if pod.alive():
            raise  # a guard, not an end
        return None


def _arguments(row: Row, device: str) -> dict[str, Any]:
    return {**_ON_GPU, **row.arguments, **row.on_gpu} if device == GPU else dict(row.arguments)


class _Pods(contextlib.AbstractContextManager["_Pods"]):
    """The workers of a row; at its end none is left."""

    def __init__(self, row: Row, device: str, work: Path) -> None:
        from images.criu import criu_path

        self._row, self._device, self._work, self._criu = row, device, work, criu_path()
        self._pods: list[Pod] = []

    def start(self, name: str, policy: CheckpointPolicy = CheckpointPolicy.AUTO) -> Pod:
        store = self._work / "store"
        store.mkdir(exist_ok=True)
        arguments = _arguments(self._row, self._device)
        environment, setup = dict(self._row.environment), ""
        if self._device == GPU:
            cache, setup = _compile_cache(self._work)
            environment |= cache
        note(f"{self._row.name}: the {name} worker starts")
        pod = Pod(
            name, self._work / f"{name}.log", store, self._work / "model", self._criu, setup=setup,
            checkpoint={"policy": policy}, engine_args=arguments, engine_env=environment,
            environment={name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ},
        )  # fmt: skip
        self._pods.append(pod)
        return pod

    def __exit__(self, *error: object) -> None:
        while self._pods:
            self._pods.pop().end()


def _compile_cache(work: Path) -> tuple[dict[str, str], str]:
    """What engines on GPUs compile, as the GPU tests have it: a volume of the container, since a frozen engine has its
    files mapped."""
    place = work / "compile-cache"
    place.mkdir(exist_ok=True)
    machine = {name: value for name, value in os.environ.items() if name.startswith("NCCL_")}
    environment = machine | {
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_CACHE_ROOT": str(place / "vllm"),
        "TRITON_CACHE_DIR": str(place / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor"),
    }
    return environment, f"mount -n --bind {place} {place}"
