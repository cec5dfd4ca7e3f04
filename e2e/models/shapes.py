"""Models of real shapes without weights: `python3 e2e/models/shapes.py 8b DIRECTORY`.

vLLM makes the weights up (`--load-format dummy`, always the same ones), so that nothing need be downloaded to measure
with the sizes of real models. The tokenizer is `tiny`'s: prompts and answers are compared as token ids.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from models.tiny import make_tiny_model

SHAPES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 768, "num_attention_heads": 8},
    "0.6b": {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16},
    "8b": {"hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "num_attention_heads": 32},
    "14b": {"hidden_size": 5120, "num_hidden_layers": 40, "intermediate_size": 17408, "num_attention_heads": 40},
    "32b": {"hidden_size": 5120, "num_hidden_layers": 64, "intermediate_size": 25600, "num_attention_heads": 64},
    "72b": {"hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 29568, "num_attention_heads": 64},
}
"""Qwen3's, and for 72b Qwen2.5's (https://huggingface.co/Qwen), except that embeddings are tied in none of them. Nobody
has "small": to try a bench on a CPU."""

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
    for file in directory.glob("model*.safetensors*"):  # what `make_weights` wrote, too
        file.unlink()
    (directory / "config.json").write_text(json.dumps(_COMMON | shape, indent=2, sort_keys=True) + "\n")


def tensors(name: str) -> dict[str, tuple[int, ...]]:
    """Names and dimensions of the weights, as Qwen3's files have them (bfloat16), in their order."""
    shape = _COMMON | SHAPES[name]
    hidden, wide, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    heads, kv_heads, words = shape["num_attention_heads"], shape["num_key_value_heads"], shape["vocab_size"]
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (kv_heads * head, hidden),
        "self_attn.v_proj": (kv_heads * head, hidden),
        "self_attn.o_proj": (hidden, heads * head),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden)}
    for number in range(shape["num_hidden_layers"]):
        found |= {f"model.layers.{number}.{part}.weight": size for part, size in layer.items()}
    return found | {"model.norm.weight": (hidden,), "lm_head.weight": (words, hidden)}


def make_weights(name: str, directory: Path) -> int:
    """Write random weights beside the model that `make_shape` wrote, in files of 4 GB, for benches of how they are
    loaded. They repeat themselves every 64 MiB, so that making them takes no longer than writing. Returns their bytes.

    Raises:
        KeyError: there is no shape of this name; OSError.
    """
    block = _bfloat16(np.random.default_rng(0).standard_normal(_BLOCK // 2, np.float32) * np.float32(0.02))
    ones = _bfloat16(np.ones(8192, np.float32))
    files: list[dict[str, tuple[int, ...]]] = [{}]
    for tensor, size in tensors(name).items():
        if sum(map(_bytes, files[-1].values())) + _bytes(size) > _FILE and files[-1]:
            files.append({})
        files[-1][tensor] = size
    places: dict[str, str] = {}
    for number, content in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        places |= dict.fromkeys(content, file)
        with (directory / file).open("wb") as written:
            written.write(_header(content))
            for size in content.values():
                left, text = _bytes(size), ones if len(size) == 1 else block
                while left:
                    left -= written.write(text[:left])
    whole = sum(map(_bytes, tensors(name).values()))
    index = {"metadata": {"total_size": whole}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return whole


_BLOCK, _FILE = 64 << 20, 4 * 10**9


def _bytes(size: tuple[int, ...]) -> int:
    return 2 * math.prod(size)


def _bfloat16(values: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _header(content: dict[str, tuple[int, ...]]) -> bytes:
    """See https://github.com/huggingface/safetensors#format."""
    at, found = 0, dict[str, Any]()
    for tensor, size in content.items():
        found[tensor] = {"dtype": "BF16", "shape": size, "data_offsets": (at, at + _bytes(size))}
        at += _bytes(size)
    text = json.dumps({"__metadata__": {"format": "pt"}, **found}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES), help="which of Qwen's, in parameters")
    parser.add_argument("directory", type=Path, help="where to write it")
    parser.add_argument("--weights", action="store_true", help="random ones, in files: 16 GB for 8b")
    arguments = parser.parse_args()
    make_shape(arguments.shape, arguments.directory)
    if arguments.weights:
        make_weights(arguments.shape, arguments.directory)
    print(arguments.directory)


if __name__ == "__main__":
    main()
