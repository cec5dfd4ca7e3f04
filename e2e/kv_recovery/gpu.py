"""KV load failures, time to first token and the cost of saving on one NVIDIA GPU: `python -m kv_recovery --gpu`."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kv_recovery import cases, recovery, saving, ttft
from kv_recovery.child import Child, start_together
from kv_recovery.report import Verdict

# The shape of Qwen3-8B; weights are made up by vLLM, since only time is measured.
_QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "attention_bias": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
_VOCABULARY = range(1000, 150000)

# Engines decode by CUDA graphs. Without torch.compile, which takes a minute, prompts are computed by kernels that are
# launched one by one.
_GRAPHS = {
    "mode": 0,
    "cudagraph_mode": "FULL_DECODE_ONLY",
    "cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 72, 96, 128],
}


def recover(work: Path, say: Callable[[str], None]) -> list[Verdict]:
    """What `recovery.run` does, with all engines side by side on one GPU."""
    bench = recovery.gpu_bench(work, say)
    plain, producer = bench.plain(), bench.producer()
    groups = [
        (decoder, [case for case in todo if case.fault.load_async is load_async] + more)
        for policy, todo in recovery.CASES.items()
        for load_async, decoder, more in (
            (False, bench.stepwise().decoder(policy, "-sync"), []),
            (True, bench.decoder(policy, "-async", load_async=False), cases.guarded_cases() * (policy == "recompute")),
        )
    ]
    with ExitStack() as stack:
        _start(stack, [plain, producer, *(decoder for decoder, _ in groups)], say)
        baselines = recovery.baseline(plain)
        recovery.prefill(bench, producer)
        return [verdict for decoder, todo in groups for verdict in recovery.decode(bench, decoder, todo, baselines)]


def first_token(work: Path, say: Callable[[str], None], tokens: int, in_flight: int = 0) -> float:
    """How many times as fast the first token is with the store, beside `in_flight` other requests; see `ttft`."""
    setting = ttft.Setting(_engine(work, tokens), recovery.GPU_ENVIRONMENT, tokens, _VOCABULARY, in_flight=in_flight)
    test = ttft.Measurement(setting, work, say)
    with ExitStack() as stack:
        _start(stack, [test.producer, test.consumer], say)
        test.fill(test.producer)
        return test.compare(test.consumer)


def cost_of_saving(work: Path, say: Callable[[str], None]) -> float:
    """Throughput with saving as a part of that without; see `saving`."""
    tokens = 4096
    setting = saving.Setting(_engine(work, tokens), recovery.GPU_ENVIRONMENT, _VOCABULARY, prompts=8, tokens=tokens)
    test = saving.Measurement(setting, work, say)
    with ExitStack() as stack:
        _start(stack, [test.plain, test.saving], say)
        return test.compare()


def _start(stack: ExitStack, children: Sequence[Child], say: Callable[[str], None]) -> None:
    start = time.monotonic()
    say(f"starting {len(children)} engines side by side")
    start_together(stack, children)
    say(f"they started in {time.monotonic() - start:.0f} s")


def _engine(work: Path, tokens: int) -> dict[str, Any]:
    """Arguments of vllm.LLM for prompts of `tokens` tokens."""
    model = work / "qwen3-8b"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(_QWEN3_8B))
    return {
        "model": str(model),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "max_model_len": tokens + 1024,
        "gpu_memory_utilization": 0.25,
        "kv_cache_memory_bytes": 8 << 30,  # 58,000 tokens; measures no free memory
        "compilation_config": _GRAPHS,
    }
