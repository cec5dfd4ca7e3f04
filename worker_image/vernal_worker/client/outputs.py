"""Outputs of a request, put together again from the differences that came over the wire."""

from dataclasses import dataclass, field
from typing import Any

from vllm import outputs
from vllm.outputs import CompletionOutput, PoolingRequestOutput, RequestOutput
from vllm.v1.metrics.stats import RequestStateStats

from vernal_worker.engine import wire

_STATS = tuple(RequestStateStats.__dataclass_fields__)
_ONCE = ("prompt_logprobs", "prompt_token_id_logprobs")
"""What vLLM hands out once where differences are asked for."""


@dataclass
class _Sum:
    """What one completion has so far."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: Any = None
    masks: list[Any] = field(default_factory=list)


class Assembly:
    """The outputs of one request. `cumulative`: each output holds everything so far, as the program asked."""

    def __init__(self, cumulative: bool) -> None:
        self._cumulative = cumulative
        self._attributes: dict[str, Any] = {}
        self._sums: dict[int, _Sum] = {}
        self._once: dict[str, Any] = {}
        self._metrics: RequestStateStats | None = None

    def add(self, output: wire.Output) -> RequestOutput:
        """The request's next output."""
        if output.changed:
            self._attributes.update(output.changed)
            if self._cumulative:
                handed = {name: output.changed.get(name) for name in _ONCE}
                self._once |= {name: value for name, value in handed.items() if value is not None and len(value)}
        if output.metrics:
            self._metrics = RequestStateStats(**dict(zip(_STATS, output.metrics, strict=True)))
        attributes = {**self._attributes, **self._once}
        return RequestOutput(
            outputs=[self._completion(piece) for piece in output.pieces],
            finished=output.finished,
            metrics=self._metrics,
            **attributes,
        )

    def _completion(self, piece: wire.Piece) -> CompletionOutput:
        text, token_ids, logprobs, more = piece.text, piece.token_ids, piece.logprobs, piece.more or {}
        if self._cumulative:
            total = self._sums.setdefault(piece.index, _Sum())
            total.text += text
            total.token_ids += token_ids
            if logprobs is not None:
                if total.logprobs is None:
                    total.logprobs = logprobs
                else:
                    total.logprobs.extend(logprobs)
            text, token_ids, logprobs = total.text, total.token_ids.copy(), total.logprobs
            if (mask := more.pop("sampling_mask", None)) is not None:
                total.masks += mask.token_ids
            if total.masks and piece.finish_reason is not None:  # before it vLLM has none
                more["sampling_mask"] = outputs.SamplingMask(total.masks.copy())
        return CompletionOutput(
            index=piece.index,
            text=text,
            token_ids=token_ids,
            cumulative_logprob=piece.cumulative_logprob,
            logprobs=logprobs,
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason,
            **more,
        )


def pooled(output: wire.Pooled) -> PoolingRequestOutput[Any]:
    """A pooling request's output."""
    return PoolingRequestOutput(**output.attributes)
