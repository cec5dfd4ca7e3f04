"""Inputs that nobody can serve, and what the library says of each at once or when the engine has looked at it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from vernal_worker.supervisor.engine_args import ArgumentError
from vllm import PoolingParams, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineGenerateError

REFUSED = (TypeError, ValueError, VLLMValidationError, EngineGenerateError)
"""The last is AsyncLLM's for what it did not expect of a prompt."""
PROMPT = "A worker that has served before"


@dataclass(frozen=True)
class Malformed:
    """`classes`: of the exceptions that there may be. `exactly`: subclasses are none of them."""

    name: str
    make: Callable[[Any], Any]
    classes: tuple[type[Exception], ...] = REFUSED
    exactly: bool = False

    def expects(self, error: Exception) -> bool:
        return type(error) in self.classes if self.exactly else isinstance(error, self.classes)


def greedy(**options: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 4, "ignore_eos": True, **options})


def altered(**attributes: Any) -> SamplingParams:
    """As a program makes them by assignment, which nothing checks."""
    params = greedy()
    for name, value in attributes.items():
        setattr(params, name, value)
    return params


def _circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _prompt(name: str, prompt: Any, *classes: type[Exception]) -> Malformed:
    return Malformed(name, lambda llm: llm.generate(prompt, greedy(), "malformed"), classes or REFUSED)


def _params(name: str, params: Callable[[], Any]) -> Malformed:
    return Malformed(name, lambda llm: llm.generate(PROMPT, params(), "malformed"))


def _option(name: str, **options: Any) -> Malformed:
    return Malformed(name, lambda llm: llm.generate(PROMPT, greedy(), "malformed", **options))


REQUESTS = (
    _prompt("no prompt", None),
    _prompt("a number", 7),
    _prompt("an object", object()),
    _prompt("a function", len),
    _prompt("nothing", {}),
    _prompt("no tokens", {"prompt_token_ids": []}),
    _prompt("a token that is too large", {"prompt_token_ids": [1 << 64]}, OverflowError),
    _prompt("a token that the model has not", {"prompt_token_ids": [10_000_000]}),
    _prompt("a token below zero", {"prompt_token_ids": [-1]}),
    _prompt("a token that is text", {"prompt_token_ids": ["a"]}),
    _prompt("a token that is None", {"prompt_token_ids": [None]}),
    _prompt("a token that is half", {"prompt_token_ids": [1.5]}),
    _prompt("tokens in a number", {"prompt_token_ids": 5}),
    _prompt("too many tokens", {"prompt_token_ids": [5] * 1025}),
    _prompt("half a character", "\ud800"),
    _prompt("a prompt in itself", _circle()),
    _prompt("a key that is none", {7: PROMPT}),
    _prompt("an image for a model that reads", {"prompt": PROMPT, "multi_modal_data": {"image": [1]}}),
    _prompt("a rendered prompt without tokens", {"type": "token"}),
    _params("no parameters", lambda: None),
    _params("parameters in a dict", lambda: {"max_tokens": 4}),
    _params("parameters of pooling", lambda: PoolingParams(task="embed")),
    _params("a temperature below zero", lambda: altered(temperature=-1.0)),
    _params("a temperature that is text", lambda: altered(temperature="hot")),
    _params("no completions", lambda: altered(n=0)),
    _params("tokens that are text", lambda: altered(max_tokens="many")),
    _params("a stop that is a number", lambda: altered(stop=[7])),
    _params("a stop token that is text", lambda: altered(stop_token_ids=["x"])),
    _params("a seed that is text", lambda: altered(seed="x")),
    _params("a bias for a token that the model has not", lambda: altered(logit_bias={10_000_000: 1.0})),
    _params("allowed tokens that the model has not", lambda: altered(allowed_token_ids=[10_000_000])),
    _params("more log probabilities than tokens", lambda: altered(logprobs=1_000_000)),
    _params("an output of no kind", lambda: altered(output_kind="some")),
    _params("an object among the parameters", lambda: greedy(extra_args={"value": object()})),
    _option("an adapter that is text", lora_request="adapter"),
    _option("an adapter where there are none", lora_request=LoRARequest("adapter", 1, "/absent")),
    _option("headers that are a number", trace_headers=5),
    _option("headers that are objects", trace_headers={"a": object()}),
    _option("a priority that is text", priority="high"),
    _option("a rank that is not there", data_parallel_rank=5),
    _option("a rank that is text", data_parallel_rank="x"),
    _option("tokenization that is a number", tokenization_kwargs=5),
    Malformed("an id that is a number", lambda llm: llm.generate(PROMPT, greedy(), 7)),
    Malformed("no id", lambda llm: llm.generate(PROMPT, greedy(), None)),
)

CALLS = (
    Malformed("an unknown method", lambda llm: llm.call("no_such_method"), (AttributeError,)),
    Malformed("a method that is not for programs", lambda llm: llm.call("shutdown"), (AttributeError,)),
    Malformed("a method that is a number", lambda llm: llm.call(7)),
    Malformed("too many arguments", lambda llm: llm.call("abort", 1, 2, 3, 4)),
    Malformed("an unknown argument", lambda llm: llm.call("is_paused", other=1)),
    Malformed("abort nothing", lambda llm: llm.abort(None)),
    Malformed("abort a number", lambda llm: llm.abort(7)),
    Malformed("abort an object", lambda llm: llm.abort([object()])),
    Malformed("a function for the workers", lambda llm: llm.collective_rpc(len)),
    Malformed("a method that the workers have not", lambda llm: llm.collective_rpc("none"), (Exception,), True),
    Malformed("a number that is too large", lambda llm: llm.collective_rpc("x", args=(1 << 64,)), (OverflowError,)),
    Malformed("adapters where there are none", lambda llm: llm.list_loras(), (Exception,), True),
    Malformed("a pause of no kind", lambda llm: llm.pause_generation(mode="other"), (Exception,), True),
    Malformed("an argument in itself", lambda llm: llm.collective_rpc("x", args=(_circle(),))),
)


def creations(model: str, arguments: dict[str, Any]) -> tuple[Malformed, ...]:
    """Of `create`, which is called on a class."""

    def made(name: str, *classes: type[Exception], **more: Any) -> Malformed:
        def make(cls: Any) -> Awaitable[Any]:
            found: Awaitable[Any] = cls.create(model, **{**arguments, "start": "cold", **more})
            return found

        return Malformed(name, make, classes)

    nixl = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    return (
        made("a start of no kind", ValueError, start="warm"),
        made("a thaw from nowhere", ValueError, start="thaw"),
        made("an argument that vLLM has not", ArgumentError, no_such_argument=1),
        made("a number that is text", ArgumentError, max_model_len="many"),
        made("a function as an argument", ArgumentError, hf_overrides=len),
        made("a connector that needs a network", ArgumentError, kv_transfer_config=nixl),
        made("memory that nobody has", ValueError, gpu_memory_utilization=7.0),
    )
