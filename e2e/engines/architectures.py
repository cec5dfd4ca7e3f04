"""Rows: other architectures, other numbers, other kinds of prompts and caches."""

import base64
import functools
import io
import math
import struct
import wave
from typing import Any

from engines.questions import GENERATION, TOKENS, chat, completion, png
from engines.row import GPU, Question, Row


def _image(colour: int, text: str) -> list[dict[str, Any]]:
    url = f"data:image/png;base64,{base64.b64encode(png(colour)).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


def _embeds(seed: int) -> dict[str, Any]:
    """A prompt of eight vectors instead of tokens."""
    import torch
    from models.tiny import HIDDEN, SCALE

    vectors = torch.randn(8, HIDDEN, generator=torch.Generator().manual_seed(seed)) * SCALE
    torch.save(vectors, file := io.BytesIO())
    encoded = base64.b64encode(file.getvalue()).decode()
    return {
        "model": "tiny", "prompt_embeds": encoded, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
        "logprobs": 3,
    }  # fmt: skip


def _tone() -> bytes:
    """Two seconds of a tone that rises, as a WAV file."""
    rate = 16000
    samples = (int(12000 * math.sin(at * (0.02 + at / 2e6))) for at in range(2 * rate))
    with wave.open(file := io.BytesIO(), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return file.getvalue()


ROWS = (
    Row("Gemma-3 sliding window", "gemma3", GENERATION),
    Row("Qwen3 MoE", "qwen3 moe", GENERATION),
    Row(
        "DeepSeek MLA",
        "deepseek",
        GENERATION,
        arguments={"numGpuBlocksOverride": 80},  # its blocks hold less
        on_gpu={"numGpuBlocksOverride": None, "dtype": "bfloat16"},  # vLLM's kernels for MLA take no float32
    ),
    Row("hybrid: Mamba2 and attention", "falcon h1", GENERATION),
    Row(
        "multimodal",
        "llava",
        (
            chat("an image", _image(3, "What is it?")),
            chat("another image", _image(5, "What is it?")),
            chat("the first again", _image(3, "What is it?")),
            chat("no image"),
        ),
        arguments={"limitMmPerPrompt": {"image": 1}},
        unlike=(("an image", "another image"),),
    ),
    Row(
        "transcription (Whisper)",
        "whisper",
        (
            Question(
                "transcription",
                "/v1/audio/transcriptions",
                {"model": "tiny", "language": "en", "temperature": 0},
                file=_tone,
            ),
        ),
        arguments={"maxModelLen": 448, "limitMmPerPrompt": {"audio": 1}},
    ),
    Row(
        "prompt embeds",
        "llama",
        (
            completion("tokens"),
            Question("vectors", "/v1/completions", functools.partial(_embeds, 1)),
            Question("other vectors", "/v1/completions", functools.partial(_embeds, 2)),
        ),
        arguments={"enablePromptEmbeds": True},
        unlike=(("vectors", "other vectors"),),
    ),
    Row("kv_offloading", "llama", GENERATION, arguments={"kvOffloadingSize": 0.1}),
    Row("FP8 KV cache", "llama", GENERATION, arguments={"kvCacheDtype": "fp8"}),
    Row("FP8 weights", "llama", GENERATION, arguments={"quantization": "fp8", "dtype": "bfloat16"}),
    Row("cpu_offload_gb", "llama", GENERATION, arguments={"cpuOffloadGb": 0.005}, devices=(GPU,)),
    Row("CUDA graphs", "llama", GENERATION, arguments={"enforceEager": False}, devices=(GPU,)),
)
