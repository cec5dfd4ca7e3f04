"""Tiny random models of every kind, made on the spot, each in a second or two.

Llama is `models.tiny`; the others come from a configuration of transformers, with weights drawn from a seed with a
standard deviation of 0.2 for the reason that `models.tiny` gives. All have its tokenizer and are float32.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from models.tiny import CONTEXT, HIDDEN, LAYERS, SCALE, VOCABULARY, make_tiny_model
from safetensors.numpy import load_file, save_file

RANK = 8
"""Of adapters."""
ADAPTERS = 60
SEED = 17
_WEIGHTS = "model.safetensors"
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def make(kind: str, directory: Path) -> None:
    """Write the model of a kind into `directory`, anew.

    Raises:
        KeyError: there is no such kind.
    """
    maker = KINDS[kind]
    shutil.rmtree(directory, ignore_errors=True)
    maker(directory)


def llama(directory: Path) -> None:
    make_tiny_model(directory)


def with_adapters(directory: Path) -> None:
    """Llama, and adapters of its attention in `adapters/NUMBER`."""
    make_tiny_model(directory)
    for number in range(ADAPTERS):
        _adapter(directory / "adapters" / str(number), number)


def _adapter(directory: Path, number: int) -> None:
    directory.mkdir(parents=True)
    random = np.random.Generator(np.random.PCG64([SEED, number]))
    weights = {}
    for layer in range(LAYERS):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj."
        weights[prefix + "lora_A.weight"] = (random.standard_normal((RANK, HIDDEN)) * SCALE).astype(np.float32)
        weights[prefix + "lora_B.weight"] = (random.standard_normal((HIDDEN, RANK)) * SCALE).astype(np.float32)
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj"], "bias": "none"}
    _write(directory / "adapter_config.json", config | {"base_model_name_or_path": "tiny", "task_type": "CAUSAL_LM"})


def with_draft(directory: Path) -> None:
    """Llama, and in `draft` the same with weights that are a little off: some of its drafts are accepted."""
    make_tiny_model(directory)
    make_tiny_model(directory / "draft")
    weights = load_file(directory / "draft" / _WEIGHTS)
    random = np.random.Generator(np.random.PCG64(SEED))
    for name in weights:
        if weights[name].ndim == 2:
            off = random.standard_normal(weights[name].shape) * SCALE * _DRAFT_OFF
            weights[name] = weights[name] + off.astype(np.float32)
    save_file(weights, directory / "draft" / _WEIGHTS, metadata={"format": "pt"})


_DRAFT_OFF = 0.02
"""Of a weight's standard deviation."""


def with_eagle(directory: Path) -> None:
    """A Llama whose layers say little beside its embeddings, and in `eagle` a head that looks at the last token's
    embedding alone (Li et al., arXiv:2401.15077, have what a head computes): so it is right some of the time."""
    make_tiny_model(directory)
    weights = load_file(directory / _WEIGHTS)
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = weights[name] * _QUIET
    save_file(weights, directory / _WEIGHTS, metadata={"format": "pt"})
    make_tiny_model(directory / "eagle")
    one = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.layers.0")}
    del one["layers.0.input_layernorm.weight"]  # a head has none
    for name in one:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            one[name] = np.zeros_like(one[name])
    one["fc.weight"] = np.concatenate([np.eye(HIDDEN), np.zeros((HIDDEN, HIDDEN))], axis=1).astype(np.float32)
    save_file(one, directory / "eagle" / _WEIGHTS, metadata={"format": "pt"})
    config = json.loads((directory / "eagle" / "config.json").read_text())
    _write(directory / "eagle" / "config.json", config | {"num_hidden_layers": 1, "model_type": "llama"})


_QUIET = 0.0015
"""Factor on what the target's layers add to the embeddings, so that these decide many of the answers."""


def classifier(labels: int) -> Callable[[Path], None]:
    """Llama with a head for so many classes; a single one is a score."""

    def maker(directory: Path) -> None:
        make_tiny_model(directory)
        weights = load_file(directory / _WEIGHTS)
        del weights["lm_head.weight"]
        random = np.random.Generator(np.random.PCG64(SEED))
        weights["score.weight"] = (random.standard_normal((labels, HIDDEN)) * SCALE * SCALE).astype(np.float32)
        save_file(weights, directory / _WEIGHTS, metadata={"format": "pt"})
        config = json.loads((directory / "config.json").read_text())
        names = {str(number): f"class {number}" for number in range(labels)}
        more = {"architectures": ["LlamaForSequenceClassification"], "num_labels": labels, "id2label": names}
        _write(directory / "config.json", config | more | {"label2id": {name: int(key) for key, name in names.items()}})

    return maker


def of_transformers(configuration: str, architecture: str, **settings: Any) -> Callable[[Path], None]:
    """A model of this class, from this class of configurations."""

    def maker(directory: Path) -> None:
        import transformers

        config = getattr(transformers, configuration)(**{**_COMMON, **settings})
        _save(directory, architecture, config)

    return maker


def _save(directory: Path, architecture: str, config: Any) -> None:
    """Weights of the class, drawn; the rest is tiny's."""
    import torch
    import transformers

    make_tiny_model(directory)
    (directory / _WEIGHTS).unlink()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    model = getattr(transformers, architecture)(config).to(torch.float32)
    with torch.no_grad():
        for values in model.parameters():
            if values.dim() >= 2:
                values.normal_(0.0, SCALE)
    model.save_pretrained(directory)


def llava(directory: Path) -> None:
    """CLIP's vision tower before a Llama; the token <|image|> stands for an image."""
    import transformers

    text = transformers.LlamaConfig(**{**_COMMON, "vocab_size": VOCABULARY + 1})
    vision = transformers.CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=VOCABULARY, tie_word_embeddings=False
    )
    _save(directory, "LlavaForConditionalGeneration", config)
    # The names that published checkpoints have and vLLM reads; transformers 5 writes others.
    weights = load_file(directory / _WEIGHTS)
    named = {name.replace("vision_tower.", "vision_tower.vision_model.", 1): value for name, value in weights.items()}
    save_file(named, directory / _WEIGHTS, metadata={"format": "pt"})
    _add_tokens(directory, ["<image>"])
    picture = {"crop_size": {"height": 28, "width": 28}, "size": {"shortest_edge": 28}}
    _write(directory / "preprocessor_config.json", picture | {"image_processor_type": "CLIPImageProcessor"})
    processor = {"processor_class": "LlavaProcessor", "patch_size": 14, "vision_feature_select_strategy": "default"}
    _write(
        directory / "processor_config.json", processor | {"image_token": "<image>", "num_additional_image_tokens": 1}
    )
    template = (
        "{% for message in messages %}<|role|>{{ message['role'] }}<|text|>"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
        "{% endfor %}{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|role|>assistant<|text|>{% endif %}"
    )
    _change(directory / "tokenizer_config.json", {"chat_template": template, "processor_class": "LlavaProcessor"})


_WHISPER_TOKENS = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", *(f"<|{step / 50:.2f}|>" for step in range(11)),
]  # fmt: skip


def whisper(directory: Path) -> None:
    """Whisper, with tiny's vocabulary and the tokens that steer it."""
    import transformers

    start = VOCABULARY + _WHISPER_TOKENS.index("<|startoftranscript|>")
    end = VOCABULARY
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY + len(_WHISPER_TOKENS), d_model=128, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=256, decoder_ffn_dim=256,
        max_source_positions=1500, max_target_positions=448, num_mel_bins=80, decoder_start_token_id=start,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    _save(directory, "WhisperForConditionalGeneration", config)
    _add_tokens(directory, _WHISPER_TOKENS)
    transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(directory)
    _change(directory / "preprocessor_config.json", {"processor_class": "WhisperProcessor"})
    whole = json.loads((directory / "tokenizer.json").read_text())["model"]
    _write(directory / "vocab.json", whole["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["merges"]]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    _change(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "WhisperTokenizer", "processor_class": "WhisperProcessor", "chat_template": None} | names,
    )
    ids = {name: VOCABULARY + number for number, name in enumerate(_WHISPER_TOKENS)}
    generation = {
        "bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start,
        "is_multilingual": True, "lang_to_id": {"<|en|>": ids["<|en|>"]},
        "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        "no_timestamps_token_id": ids["<|notimestamps|>"], "max_length": 448,
    }  # fmt: skip
    _write(directory / "generation_config.json", generation)


def _add_tokens(directory: Path, tokens: list[str]) -> None:
    """Behind tiny's vocabulary, as special tokens."""
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.save(str(directory / "tokenizer.json"))


def _change(path: Path, settings: dict[str, Any]) -> None:
    content = (json.loads(path.read_text()) if path.exists() else {}) | settings
    _write(path, {key: value for key, value in content.items() if value is not None})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


KINDS: dict[str, Callable[[Path], None]] = {
    "llama": llama,
    "llama with adapters": with_adapters,
    "llama with a draft model": with_draft,
    "llama with an EAGLE head": with_eagle,
    "llama, three classes": classifier(3),
    "llama, one score": classifier(1),
    "llava": llava,
    "whisper": whisper,
    "bert": of_transformers(
        "BertConfig", "BertModel", vocab_size=VOCABULARY, num_key_value_heads=4, position_embedding_type="absolute"
    ),
    "gemma3": of_transformers(
        "Gemma3TextConfig", "Gemma3ForCausalLM", head_dim=64, sliding_window=64, num_hidden_layers=6,
        query_pre_attn_scalar=64,
    ),
    "qwen3 moe": of_transformers(
        "Qwen3MoeConfig", "Qwen3MoeForCausalLM", head_dim=64, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=256, norm_topk_prob=True,
    ),
    "deepseek": of_transformers(
        "DeepseekV2Config", "DeepseekV2ForCausalLM", num_key_value_heads=4, kv_lora_rank=512, q_lora_rank=None,
        qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, n_routed_experts=8, n_shared_experts=1,
        num_experts_per_tok=2, moe_intermediate_size=256, first_k_dense_replace=1, n_group=1, topk_group=1,
    ),
    "falcon h1": of_transformers(
        "FalconH1Config", "FalconH1ForCausalLM", head_dim=64, mamba_d_ssm=512, mamba_n_heads=8, mamba_d_head=64,
        mamba_n_groups=1, mamba_d_state=64, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=128,
    ),
}  # fmt: skip
"""By the name that rows use: writes the model into a directory."""
