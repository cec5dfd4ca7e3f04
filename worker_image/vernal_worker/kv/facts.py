"""What vLLM's objects say, in our own words: which models are supported, what a block's content depends on, what a
request and a step are. Written for vLLM 0.26 to 0.32."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import vllm
from vllm.v1.kv_cache_interface import FullAttentionSpec, UniformTypeKVCacheSpecs

from vernal_worker.kv import media
from vernal_worker.kv.fingerprint import UnidentifiableError, directory_identity, files_state
from vernal_worker.kv.keys import Feature, Salt
from vernal_worker.kv.planner import Scheduled
from vernal_worker.kv.scheduler_side import Prompt

_UNSTABLE = frozenset({"transformers_version", "torch_dtype", "dtype"})
"""Entries of a model's configuration that say nothing about the model, or that are told apart from it."""

_adapters: dict[tuple[str, str, int], tuple[str, Any] | None] = {}
"""Identity and state of an adapter's files when it was first seen; None once they cannot be told."""

_named: dict[str, str | None] = {}
"""Content of items by vLLM's identifier, the one named longest ago first; None once an identifier had two contents, or
one that cannot be told."""
_MOST_NAMED = 65_536  # 10 MB


def unsupported(vllm_config: Any, kv_cache_config: Any) -> str | None:
    """Why blocks of this engine cannot be shared, or None."""
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        return (
            f"the model has {len(groups)} KV cache groups, and only models with one are supported; a model that mixes "
            "full and sliding-window attention has one with --disable-hybrid-kv-cache-manager"
        )
    spec = groups[0].kv_cache_spec
    specs = list(spec.kv_cache_specs.values()) if isinstance(spec, UniformTypeKVCacheSpecs) else [spec]
    other = sorted({type(s).__name__ for s in specs if not isinstance(s, FullAttentionSpec)})
    if other:
        return f"only full attention is supported, and this model's KV cache is {', '.join(other)}"
    if vllm_config.speculative_config is not None:
        return "speculative decoding is not supported"
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            return f"{name} > 1 is not supported"
    if getattr(cache, "calculate_kv_scales", False):
        return "calculate_kv_scales makes each worker's KV cache its own"
    return None


def recovers_synchronous_loads(vllm_config: Any) -> bool:
    """Whether vLLM computes a request's blocks again as it should after a load failed in the very step that needs them.

    With asynchronous scheduling it may stop with an assertion, and its V2 model runner computes from wrong positions
    and answers wrongly (https://github.com/vllm-project/vllm/issues/49250; seen with 0.26, open in 0.32).
    """
    v2_runner = getattr(vllm_config, "use_v2_model_runner", False)
    return not (vllm_config.scheduler_config.async_scheduling or v2_runner)


def layout_facts(vllm_config: Any, layers: Sequence[dict[str, Any]], model_digest: str | None) -> dict[str, Any]:
    """All that the content of this worker's blocks depends on, beside the prompt.

    Args:
        layers: name, element type and shape of a block of each layer.

    Raises:
        UnidentifiableError: nothing says which weights the model has.
    """
    model, parallel, cache = vllm_config.model_config, vllm_config.parallel_config, vllm_config.cache_config
    load_format = str(vllm_config.load_config.load_format)
    attention_layers = vllm_config.compilation_config.static_forward_context
    backends = {attention_layers[layer["layer"]].get_attn_backend().get_name() for layer in layers}
    return {
        "vllm": vllm.__version__,
        "model": f"given:{model_digest}" if model_digest else _model_identity(vllm_config),
        "dummy_weights_seed": model.seed if load_format.endswith("dummy") else None,
        "config": _stable(model.hf_config.to_dict()),
        "max_model_len": model.max_model_len,  # some position embeddings depend on it
        "dtype": str(model.dtype),
        "quantization": str(model.quantization),
        "cache_dtype": str(cache.cache_dtype),
        "block_tokens": cache.block_size,
        "attention": sorted(backends),
        "tensor_parallel": parallel.tensor_parallel_size,
        "pipeline_parallel": parallel.pipeline_parallel_size,
        "rank": parallel.rank,
        "layers": list(layers),
    }


def prompt(request: Any) -> Prompt:
    """vLLM's request, as far as the KV store is concerned."""
    tokens: Sequence[int] | None = request.prompt_token_ids
    if getattr(request, "prompt_embeds", None) is not None:
        tokens = None
    adapter: str | None = None
    if request.lora_request is not None:
        adapter = _adapter_identity(request.lora_request)
        if adapter is None:
            tokens = None
    named: dict[str, str | None] = {}
    if tokens is None:  # nobody asks for its salt, and the engine computes its items all the same
        _noted(request, named)
    return Prompt(
        request_id=request.request_id,
        tokens=tokens,
        length=request.num_tokens,
        salt=lambda: _salt(request, adapter, named),
        may_load=not getattr(request, "skip_reading_prefix_cache", False),
        alone=lambda: all(_named.get(name, content) == content for name, content in named.items()),
    )


def _salt(request: Any, adapter: str | None, named: dict[str, str | None]) -> Salt | None:
    features = []
    for feature, found in zip(request.mm_features, _noted(request, named), strict=True):
        if found is None:
            return None
        features.append(Feature(found, feature.mm_position.offset, feature.mm_position.length))
    return Salt(request.cache_salt, adapter, tuple(features))


def _noted(request: Any, named: dict[str, str | None]) -> list[str | None]:
    """Content of each item; None where it, or what the engine has under its name, cannot be told. What they are called
    is noted, of all: the engine also computes those behind one that cannot be told."""
    found: list[str | None] = []
    for feature in request.mm_features:
        content = named[feature.identifier] = media.content(feature.data)
        found.append(content if _is_alone(feature.identifier, content) else None)
    return found


def _is_alone(identifier: str, content: str | None) -> bool:
    """Whether the identifier, which a client may choose, has named nothing else. vLLM's caches of encoder outputs and
    of prefixes go by it alone: what the engine computes for the one content may come from the other."""
    known = _named.pop(identifier, content)
    _named[identifier] = known if known == content else None  # as the latest: vLLM's caches forget in that order, too
    if len(_named) > _MOST_NAMED:
        del _named[next(iter(_named))]
    return known == content


def step(scheduler_output: Any) -> list[Scheduled]:
    """Which requests compute how many tokens in this step."""
    return list(_step(scheduler_output))


def _step(scheduler_output: Any) -> Iterator[Scheduled]:
    counts = scheduler_output.num_scheduled_tokens
    for new in scheduler_output.scheduled_new_reqs:
        yield Scheduled(new.req_id, new.num_computed_tokens, counts[new.req_id], new.block_ids[0], True)
    cached = scheduler_output.scheduled_cached_reqs
    for request_id, blocks, computed in zip(
        cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
    ):
        replaced = request_id in cached.resumed_req_ids
        yield Scheduled(request_id, computed, counts[request_id], blocks[0] if blocks else (), replaced)


def _model_identity(vllm_config: Any) -> str:
    model = vllm_config.model_config
    path = Path(model.model)
    if path.is_file():
        return f"{directory_identity(path.parent)}/{path.name}"
    if not path.is_dir():
        path = _snapshot(model.model, model.revision, vllm_config.load_config.download_dir)
    return directory_identity(path, weights=not str(vllm_config.load_config.load_format).endswith("dummy"))


def _snapshot(name: str, revision: str | None, cache: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, cache_dir=cache, local_files_only=True))
    except Exception as error:
        raise UnidentifiableError(
            f"{name} is neither a directory nor in the Hugging Face cache; say which weights it is with "
            "kv_connector_extra_config.model_digest"
        ) from error


def _adapter_identity(lora: Any) -> str | None:
    """Identity of a LoRA adapter's files; None if it has none that can be read, or others than when it was first seen:
    an adapter may be loaded anew in its place (`load_inplace`), and nothing says when."""
    known, path = (lora.lora_name, lora.lora_path, lora.lora_int_id), Path(lora.lora_path)
    try:
        now = files_state(path)
        if known not in _adapters:
            _adapters[known] = directory_identity(path), now
    except UnidentifiableError:
        _adapters[known] = None
    if (found := _adapters[known]) is None:
        return None
    identity, then = found
    if now != then:
        _adapters[known] = None
        return None
    return identity


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(key): _stable(entry)
            for key, entry in value.items()
            if not str(key).startswith("_") and key not in _UNSTABLE
        }
    if isinstance(value, list | tuple):
        return [_stable(entry) for entry in value]
    return value
