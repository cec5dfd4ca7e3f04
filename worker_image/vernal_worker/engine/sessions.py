"""Requests whose prompt streams in end when vLLM's core ends them: AsyncLLM takes that for the end of a part only.

A pause or a sleep with `mode="abort"` ends a session in the core, and with it the parts that wait there. AsyncLLM notes
one part as done and waits for the others for ever; a part or an end that comes later opens a session without what was
before, and what that answers goes to the request (seen with vLLM 0.32; vllm-project/vllm#53861).
"""

from collections.abc import Iterable
from typing import Any

from vllm.v1.engine import FinishReason

_GONE = frozenset({FinishReason.ABORT, FinishReason.ERROR})
"""Why the core ends a session; the other reasons end a part."""


def guard(output_processor: Any) -> None:
    """Each streamed request of this AsyncLLM's ends with its session, and no part of it opens another one."""
    process, abort = output_processor.process_outputs, output_processor.abort_requests
    states = output_processor.request_states

    def process_outputs(outputs: list[Any], *arguments: Any, **options: Any) -> Any:
        ended = []
        for output in outputs:
            if output.finish_reason not in _GONE:
                continue
            if (state := states.get(output.request_id)) is not None and _streams(state):
                state.streaming_input = False  # as after the last part: its next end is the request's
                state.queue.close()
                ended.append(output.request_id)
        processed = process(outputs, *arguments, **options)
        processed.reqs_to_abort.extend(ended)  # what came into the core since is a session of its own
        return processed

    def abort_requests(request_ids: Iterable[str], internal: bool) -> Any:
        request_ids = list(request_ids)
        for request_id in request_ids:
            for name in [request_id] if internal else output_processor.external_req_ids.get(request_id, ()):
                if (state := states.get(name)) is not None and _streams(state):
                    state.queue.close()  # not when its generator next runs: until then a part would open a new one
        return abort(request_ids, internal)

    output_processor.process_outputs, output_processor.abort_requests = process_outputs, abort_requests


def _streams(state: Any) -> bool:
    """Also after the last part has come."""
    return bool(state.streaming_input) or state.input_chunk_queue is not None
