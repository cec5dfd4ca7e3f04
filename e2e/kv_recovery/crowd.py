"""Requests that decode while another one is measured. In the engine's process."""

import time
from collections.abc import Sequence
from typing import Any


class Crowd:
    """Requests in flight, each past its first token, for as long as the `with` statement lasts.

    Args:
        engine: vLLM's LLMEngine, with nothing to do.
        prompts: one request each. None of them ends by itself as long as `max_model_len` has room for its answer.
    """

    def __init__(self, engine: Any, prompts: Sequence[Sequence[int]]) -> None:
        self._engine = engine
        self._prompts = prompts
        self._room = engine.vllm_config.model_config.max_model_len

    def __enter__(self) -> "Crowd":
        silent = set()
        for number, prompt in enumerate(self._prompts):
            silent.add(self._add(f"crowd-{number}", prompt, self._room - len(prompt)))
        self._members = sorted(silent)
        while silent:
            silent -= {output.request_id for output in self._step()}
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.abort_request(self._members)

    def run(self, prompt: Sequence[int], max_tokens: int) -> Any:
        """vLLM's RequestOutput for one more request, when it is over; the others decode meanwhile."""
        name = self._add(f"measured-{time.monotonic_ns()}", prompt, max_tokens)
        while True:
            for output in self._step():
                if output.request_id == name and output.finished:
                    return output

    def _add(self, name: str, prompt: Sequence[int], max_tokens: int) -> str:
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        self._engine.add_request(name, {"prompt_token_ids": prompt}, parameters)
        return name

    def _step(self) -> list[Any]:
        """
        Raises:
            RuntimeError: one of the crowd is over, so that it is smaller than was asked for.
        """
        outputs: list[Any] = self._engine.step()
        if any(output.finished and output.request_id.startswith("crowd-") for output in outputs):
            raise RuntimeError("a request that was to decode all the time is over: max_model_len is too small")
        return outputs
