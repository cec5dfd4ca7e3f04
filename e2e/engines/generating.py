"""Rows: what a Llama can be asked, adapters, and tokens that are guessed ahead."""

from vernal_contract.names import PATH_MODEL

from engines.kinds import ADAPTERS, RANK
from engines.questions import GENERATION, LONG, chat, completion
from engines.row import Question, Row

_DRAFTS = (
    "vllm:spec_decode_num_drafts_total",
    "vllm:spec_decode_num_draft_tokens_total",
    "vllm:spec_decode_num_accepted_tokens_total",
)
_SCHEMA = {
    "type": "object",
    "properties": {"mode": {"enum": ["cold", "thawed"]}, "seconds": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["mode", "seconds"],
    "additionalProperties": False,
}
_JSON = {"json": _SCHEMA, "disable_any_whitespace": True}
_OBJECT = r'\s*\{\s*"mode"\s*:\s*"(cold|thawed)"\s*,\s*"seconds"\s*:\s*\d{1,2}\s*\}\s*'
_TOOL = {"type": "function", "function": {"name": "start", "description": "Start a worker.", "parameters": _SCHEMA}}
_CACHED = "usage.prompt_tokens_details.cached_tokens"
_MISS, _HIT = {_CACHED: "0|None"}, {_CACHED: "[1-9][0-9]*"}
_TEXT = "choices.0.text"
_CALLED = "choices.0.message.tool_calls.0.function.name"
_LORA = {"enableLora": True, "maxLoraRank": RANK}
_LORA_ON_GPU = {"dtype": "bfloat16"}  # vLLM's kernels for adapters take no float32


def _structured(name: str, constraint: dict[str, object], pattern: str, **more: object) -> Question:
    return completion(
        name, structured_outputs=constraint, ignore_eos=None, max_tokens=64, shows={_TEXT: pattern}, **more
    )


def _adapter(number: int) -> str:
    return f"{PATH_MODEL}/adapters/{number}"


def _named(number: int) -> str:
    return f"adapter-{number}={_adapter(number)}"


def _tools(name: str, choice: object, **more: object) -> Question:
    plain = {"ignore_eos": None, "logprobs": None, "top_logprobs": None, "max_tokens": 200}
    return chat(name, tools=[_TOOL], tool_choice=choice, **plain | more)


_REPEATED = "one two three one two three one two three"


def _speculating(name: str, model: str, configuration: dict[str, object], *more: Question) -> Row:
    return Row(
        name,
        model,
        (*GENERATION, completion("repeated", _REPEATED, max_tokens=200), *more),
        arguments={"speculativeConfig": configuration},
        counters=_DRAFTS,
    )


ROWS = (
    Row(
        "Llama",
        "llama",
        (
            *GENERATION,
            completion("logprobs of the prompt", prompt_logprobs=2),
            completion("several, sampled", n=3, temperature=1.0, seed=7),
            completion("top-p and top-k", temperature=1.0, seed=11, top_p=0.8, top_k=40),
            completion("min-p", temperature=1.0, seed=13, min_p=0.02),
            completion("penalties", presence_penalty=0.7, frequency_penalty=0.7, repetition_penalty=1.2),
            completion("logit bias", logit_bias={"65": 20.0}, bad_words=["worker"]),
            completion("beam search", use_beam_search=True, n=2, return_token_ids=None),
            chat("chat"),
            chat("several chats", n=2, temperature=1.0, seed=3),
        ),
    ),
    Row(
        "static LoRA",
        "llama with adapters",
        (completion("base"), completion("adapter 0", model="adapter-0"), completion("adapter 1", model="adapter-1")),
        arguments={**_LORA, "maxLoras": 2, "loraModules": [_named(0), _named(1)]},
        on_gpu=_LORA_ON_GPU,
        unlike=(("base", "adapter 0"), ("base", "adapter 1"), ("adapter 0", "adapter 1")),
    ),
    Row(
        "60 adapters",
        "llama with adapters",
        (completion("base"), *(completion(f"adapter {n}", model=f"adapter-{n}") for n in range(ADAPTERS))),
        arguments={
            **_LORA,
            "maxLoras": 4,
            "maxCpuLoras": ADAPTERS,
            "loraModules": [_named(n) for n in range(ADAPTERS)],
        },
        on_gpu=_LORA_ON_GPU,
        unlike=tuple(("base" if not n else f"adapter {n - 1}", f"adapter {n}") for n in range(ADAPTERS)),
    ),
    Row(
        "LoRA loaded at run time",
        "llama with adapters",
        (
            completion("base"),
            Question("load", "/v1/load_lora_adapter", {"lora_name": "late", "lora_path": _adapter(2)}),
            completion("adapter", model="late"),
            Question("unload", "/v1/unload_lora_adapter", {"lora_name": "late"}),
            Question("load another", "/v1/load_lora_adapter", {"lora_name": "later", "lora_path": _adapter(3)}),
            completion("another adapter", model="later"),
        ),
        arguments={**_LORA, "maxLoras": 1},
        on_gpu=_LORA_ON_GPU,
        environment={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
        unlike=(("base", "adapter"), ("adapter", "another adapter")),
    ),
    Row(
        "structured output",
        "llama",
        (
            _structured("JSON schema", _JSON, _OBJECT),
            _structured("regex", {"regex": "[a-f]{3}-[0-9]{3}"}, "[a-f]{3}-[0-9]{3}"),
            _structured("choice", {"choice": ["cold", "thawed", "frozen"]}, "cold|thawed|frozen"),
            _structured(
                "grammar",
                {"grammar": 'root ::= ("yes" | "no") " " root | "end"'},
                "(yes |no )*(y|ye|yes|n|no|e|en|end)?",
            ),
            _structured("regex with min_tokens", {"regex": "[a-z]+"}, "[a-z]+", min_tokens=20),
            _structured("schema with min_tokens", _JSON, _OBJECT, min_tokens=5),
            _structured("sampled", {"regex": "[a-z]{2,9}"}, "[a-z]{2,9}", temperature=1.0, seed=5),
        ),
    ),
    Row(
        "tool calls",
        "llama",
        (
            _tools("none", "none", shows={_CALLED: "None"}),
            _tools("auto", "auto"),
            # Sampled: the most likely way may be a list of calls without an end, which vLLM 0.26 takes for none.
            _tools("required", "required", shows={_CALLED: "start"}, temperature=1.0, seed=3, max_tokens=600),
            _tools("named", {"type": "function", "function": {"name": "start"}}, shows={_CALLED: "start"}),
        ),
        arguments={
            "enableAutoToolChoice": True,
            "toolCallParser": "hermes",
            # With white space in it a model without training writes nothing else.
            "structuredOutputsConfig": {"backend": "xgrammar", "disable_any_whitespace": True},
        },
    ),
    _speculating(
        "n-gram speculation",
        "llama",
        {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3},
        # A model without training repeats nothing by itself.
        _structured("made to repeat", {"regex": "( one two three){4}"}, "( one two three)+", prompt=_REPEATED),
    ),
    _speculating(
        "draft model",
        "llama with a draft model",
        {"method": "draft_model", "model": f"{PATH_MODEL}/draft", "num_speculative_tokens": 3},
    ),
    _speculating(
        "EAGLE",
        "llama with an EAGLE head",
        {"method": "eagle", "model": f"{PATH_MODEL}/eagle", "num_speculative_tokens": 2},
    ),
    Row(
        "prefix cache",
        "llama",
        (
            completion("first", LONG, shows=_MISS),
            completion("again", LONG, shows=_HIT),
            completion("another end", f"{LONG} So", shows=_HIT),
            completion("another beginning", f"So {LONG}", shows=_MISS),
        ),
        arguments={"enablePromptTokensDetails": True, "enablePrefixCaching": True},
        counters=("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"),
    ),
)
