"""A tiny random Llama, made on the spot: `python3 e2e/models/tiny.py DIRECTORY`.

It is a real model to vLLM (safetensors, byte-level BPE tokenizer, chat template) of 3.4 million parameters,
14 MB. The weights are drawn with a standard deviation of 0.2, ten times the usual: only then does a greedy
answer depend on every earlier token, so that a lost or wrong block of the KV cache shows in the answer. They
are stored in float32 so that near-ties between tokens, and with them answers that depend on the batch, are
rare: run it with `--dtype float32`.

The same seed gives the same bytes on every machine: NumPy's PCG64 draws the weights, and nothing reads the
clock. Needs numpy, safetensors and tokenizers, but neither torch nor transformers, and takes about a second.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LAYERS, HIDDEN, HEAD_DIM, HEADS, KV_HEADS, INTERMEDIATE = 4, 256, 64, 4, 2, 768
VOCABULARY, CONTEXT, SCALE = 512, 2048, 0.2
BOS, END = "<|begin|>", "<|end|>"
SPECIAL_TOKENS = [BOS, END, "<|role|>", "<|text|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|role|>{{ message['role'] }}<|text|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|role|>assistant<|text|>{% endif %}"
)
# The tokenizer learns its merges from this text; any English text with enough different pairs would do.
TEXT = """ A worker that has served before need not learn again how to serve. It loads the weights, compiles
the kernels, captures the graphs and allocates the cache, and each of these steps takes longer than the answer
that somebody is waiting for. Freeze it once, just before its first request, when nothing in its memory
belongs to anybody; write down the process tree and the open files; keep the weights apart, where many readers
can stream them. Later, on another machine, lay the files back, restore the tree, give it a listening socket
and ask a question whose answer is known. If the answer is equal, the worker is ready. If anything differs,
say what differs and start the slow way, for a slow start is better than a wrong answer. When demand falls,
stop accepting, finish what was accepted, transfer what must be transferred, and exit quietly. Numbers such as
0, 1, 2, 3, 4, 5, 6, 7, 8 and 9, questions? exclamations! and "quotes" occur as well.
"""


def make_tiny_model(path: str | os.PathLike[str], seed: int = 0) -> None:
    """Writes the model into the directory `path`, which is created if missing.

    A directory that holds a complete model of another seed is overwritten file by file; each file appears by
    rename.

    Raises:
        OSError: the directory cannot be created or written.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".making-") as work:
        save_file(_weights(seed), Path(work) / "model.safetensors", metadata={"format": "pt"})
        (Path(work) / "model.safetensors").chmod(0o644)  # it comes as 0600; the model has no secrets
        _tokenizer().save(str(Path(work) / "tokenizer.json"))
        _write(Path(work) / "tokenizer_config.json", _tokenizer_config())
        _write(Path(work) / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
        _write(Path(work) / "config.json", _config())
        # What loaders look at first comes last, so that a directory with a config.json is a whole model.
        for name in sorted(os.listdir(work), key="config.json".__eq__):  # noqa: PTH208
            (Path(work) / name).replace(directory / name)


def _weights(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.Generator(np.random.PCG64(seed))

    def matrix(rows: int, columns: int) -> np.ndarray[Any, Any]:
        return (random.standard_normal((rows, columns)) * SCALE).astype(np.float32)

    def ones() -> np.ndarray[Any, Any]:
        return np.ones(HIDDEN, np.float32)

    weights = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights[prefix + "self_attn.q_proj.weight"] = matrix(HEADS * HEAD_DIM, HIDDEN)
        weights[prefix + "self_attn.k_proj.weight"] = matrix(KV_HEADS * HEAD_DIM, HIDDEN)
        weights[prefix + "self_attn.v_proj.weight"] = matrix(KV_HEADS * HEAD_DIM, HIDDEN)
        weights[prefix + "self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        weights[prefix + "mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[prefix + "mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[prefix + "mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        weights[prefix + "input_layernorm.weight"] = ones()
        weights[prefix + "post_attention_layernorm.weight"] = ones()
    return weights | {"model.norm.weight": ones(), "lm_head.weight": matrix(VOCABULARY, HIDDEN)}


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise AssertionError(f"TEXT is too short: it gives {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}")
    return tokenizer


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": SCALE,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to write it, for example /tmp/tiny")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another model (default: 0)")
    arguments = parser.parse_args()
    make_tiny_model(arguments.directory, arguments.seed)
    print(arguments.directory)


if __name__ == "__main__":
    main()
