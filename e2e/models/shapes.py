"""Models of real shapes without weights: `python3 e2e/models/shapes.py 8b DIRECTORY`.

vLLM makes the weights up (`--load-format dummy`, always the same ones), so that nothing need be downloaded to measure
with the sizes of real models. The tokenizer is `tiny`'s: prompts and answers are compared as token ids.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from models.tiny import make_tiny_model

SHAPES: dict[str, dict[str, Any]] = {
    "0.6b": {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16},
    "8b": {"hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "num_attention_heads": 32},
    "14b": {"hidden_size": 5120, "num_hidden_layers": 40, "intermediate_size": 17408, "num_attention_heads": 40},
    "32b": {"hidden_size": 5120, "num_hidden_layers": 64, "intermediate_size": 25600, "num_attention_heads": 64},
    "72b": {"hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 29568, "num_attention_heads": 64},
}
"""Qwen3's, and for 72b Qwen2.5's (https://huggingface.co/Qwen), except that embeddings are tied in none of them."""

_COMMON: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
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
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def make_shape(name: str, directory: Path) -> None:
    """Write the model of this name into `directory`, which is made if missing.

    Raises:
        KeyError: there is no shape of this name.
    """
    shape = SHAPES[name]
    make_tiny_model(directory)
    (directory / "model.safetensors").unlink(missing_ok=True)
    (directory / "config.json").write_text(json.dumps(_COMMON | shape, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES), help="which of Qwen's, in parameters")
    parser.add_argument("directory", type=Path, help="where to write it")
    arguments = parser.parse_args()
    make_shape(arguments.shape, arguments.directory)
    print(arguments.directory)


if __name__ == "__main__":
    main()
