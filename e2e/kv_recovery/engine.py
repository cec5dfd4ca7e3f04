"""The child: one vLLM engine that runs batches as they come in on stdin, one JSON object a line, and answers on stdout.

Run as `python -m kv_recovery.engine OPTIONS`, where OPTIONS is JSON: `engine` (arguments of vllm.LLM), `connector`
(kv_transfer_config, or null). A batch has `prompts`, `max_tokens`, `reset` (forget the local prefix cache first) and
`beside` (prompts of requests that decode meanwhile).
"""

import inspect
import json
import os
import sys
import time
from typing import Any, TextIO

from kv_recovery.crowd import Crowd

# In this process: there is no pod around it that would keep the engine's processes together.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to stdout
    options = json.loads(sys.argv[1])
    from vllm import LLM
    from vllm.config import KVTransferConfig

    connector = options["connector"]
    llm = LLM(
        **options["engine"],
        disable_log_stats=False,
        **({"kv_transfer_config": KVTransferConfig(**connector)} if connector else {}),
    )
    _count_every_step(llm.llm_engine)
    _say(answers, {"block_tokens": llm.llm_engine.vllm_config.cache_config.block_size})
    for line in sys.stdin:
        batch = json.loads(line)
        if batch.get("reset"):
            _forget(llm)
        for name in batch.get("lifecycle", ()):
            _lifecycle(name)
        _say(answers, _run(llm, batch) if "prompts" in batch else {})
    llm.llm_engine.engine_core.shutdown()


def _count_every_step(engine: Any) -> None:
    """In vLLM 0.26 this engine, unlike AsyncLLM, forgets what was counted in a step that brought no token."""
    if "len(outputs.outputs) > 0" not in inspect.getsource(type(engine).step):
        return
    get = engine.engine_core.get_output

    def get_output() -> Any:
        outputs = get()
        if not outputs.outputs and outputs.scheduler_stats is not None:
            engine.logger_manager.record(scheduler_stats=outputs.scheduler_stats, iteration_stats=None)
        return outputs

    engine.engine_core.get_output = get_output


def _forget(llm: Any) -> None:
    for _ in range(10):
        if llm.reset_prefix_cache():
            return
        llm.llm_engine.step()  # asynchronous scheduling has a step under way that holds blocks
    raise RuntimeError("the prefix cache cannot be reset")


def _run(llm: Any, batch: dict[str, Any]) -> dict[str, Any]:
    from vernal_worker.kv import lifecycle

    before = _counters()
    outputs, seconds = _generate(llm, batch)
    if batch["flush"]:
        lifecycle.flush()
    llm.llm_engine.do_log_stats()
    return {
        "answers": [list(output.outputs[0].token_ids) for output in outputs],
        "reasons": [str(output.outputs[0].finish_reason) for output in outputs],
        "seconds": seconds,
        "counters": {
            name: value - before.get(name, 0) for name, value in _counters().items() if value != before.get(name, 0)
        },
    }


def _generate(llm: Any, batch: dict[str, Any]) -> tuple[list[Any], float]:
    """vLLM's outputs, and the seconds until the last of them."""
    from vllm import SamplingParams

    prompts, max_tokens = batch["prompts"], batch["max_tokens"]
    if batch.get("beside"):
        with Crowd(llm.llm_engine, batch["beside"]) as crowd:
            start = time.monotonic()
            outputs = [crowd.run(prompt, max_tokens) for prompt in prompts]
            return outputs, time.monotonic() - start
    parameters = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    start = time.monotonic()
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False)
    return outputs, time.monotonic() - start


def _lifecycle(name: str) -> None:
    from vernal_worker.kv import lifecycle

    getattr(lifecycle, name)()


def _counters() -> dict[str, float]:
    """The connector's Prometheus counters, as /metrics would show them: `name` or `name:label`."""
    from prometheus_client import REGISTRY

    values: dict[str, float] = {}
    for metric in REGISTRY.collect():
        if not metric.name.startswith("vernal_kv_"):
            continue
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                label = [value for name, value in sample.labels.items() if name not in ("model_name", "engine")]
                name = metric.name.removeprefix("vernal_kv_")
                values[":".join([name, *label])] = sample.value
    return values


def _say(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
