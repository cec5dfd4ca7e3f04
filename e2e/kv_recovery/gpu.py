"""KV load failures and time to first token on one NVIDIA GPU: run by gpu.sh."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from kv_recovery import recovery, report, ttft

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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kv_recovery.gpu", description=__doc__)
    parser.add_argument("--only", choices=["recovery", "ttft"], help="one of the two parts (default: both)")
    parser.add_argument("--tokens", type=int, default=16384, help="prompt length for time to first token")
    parser.add_argument("--work", type=Path, help="keep models, stores and logs in this directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-kv-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bad = 0
        if arguments.only != "ttft":
            verdicts = recovery.run(recovery.gpu_bench(work, _say))
            wrong = [verdict for verdict in verdicts if verdict.problems]
            for verdict in wrong:
                _say("\n".join(report.difference(verdict)))
            _say(f"{len(verdicts) - len(wrong)} of {len(verdicts)} cases as they must be")
            bad += len(wrong)
        if arguments.only != "recovery":
            bad += ttft.measure(_setting(work, arguments.tokens), work, _say) <= 1
    return 1 if bad else 0


def _setting(work: Path, tokens: int) -> ttft.Setting:
    model = work / "qwen3-8b"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(_QWEN3_8B))
    engine = {
        "model": str(model),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "max_model_len": tokens + 1024,
        "gpu_memory_utilization": 0.8,
        "enforce_eager": True,
    }
    return ttft.Setting(engine, {}, tokens, range(1000, 150000), {"threads": 16, "load_buffer_mib": 512})


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
