"""Requests that vLLM's core can read: nobody else looks at the types of what a program has put into one.

The core's thread that reads requests ends with the first that it cannot read, unheard: no request is answered after
it, and no call (seen with vLLM 0.32). So what the core does first is done here, before vLLM has noted the request.
"""

from collections.abc import Callable
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder


def guard(input_processor: Any) -> None:
    """Every request of this AsyncLLM's is looked at: its input processor refuses what the core cannot read."""
    process, assign = input_processor.process_inputs, input_processor.assign_request_id
    check = _checker()

    def process_inputs(*arguments: Any, **options: Any) -> Any:
        request = process(*arguments, **options)
        if options.get("resumable"):  # a part of an input that streams: it is assigned no id
            check(request)
        return request

    def assign_request_id(request: Any) -> None:
        check(request)
        assign(request)

    input_processor.process_inputs, input_processor.assign_request_id = process_inputs, assign_request_id


def _checker() -> Callable[[Any], None]:
    encode, decode = MsgpackEncoder().encode, MsgpackDecoder(EngineCoreRequest).decode

    def check(request: Any) -> None:
        """Raises: VLLMValidationError: the core could not read it."""
        try:
            decode(encode(request))
        except Exception as error:  # msgspec's, and whatever hooks of vLLM's raise
            raise VLLMValidationError(f"vLLM's core cannot read the request: {error}") from error
        if any(token < 0 for token in request.prompt_token_ids or ()):
            raise VLLMValidationError("a token of the prompt is below zero")

    return check
