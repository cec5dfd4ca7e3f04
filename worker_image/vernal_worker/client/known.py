"""What AsyncLLM knows without asking its engine."""

import copy
from functools import cached_property
from typing import Any

from vllm import exceptions
from vllm.v1.engine.exceptions import EngineDeadError

from vernal_worker.client import configuration
from vernal_worker.client.connection import Connection
from vernal_worker.engine import wire


class Known:
    """Mixed into `CheckpointableAsyncLLM`. Nothing here blocks, but for the first look at `renderer` and what is made
    of it, which loads the tokenizer."""

    vllm_config: Any
    """As the engine's own: what it found out when it started is filled in."""
    log_stats: bool
    log_requests: bool
    _facts: wire.Welcome

    @property
    def _connection(self) -> Connection | None:
        raise NotImplementedError

    @property
    def _ended(self) -> bool:
        """Whether the engine's processes are gone."""
        raise NotImplementedError

    def _learn(self, facts: wire.Welcome) -> None:
        """What the engine says of itself, after each start, thaw and freeze."""
        self._facts = facts
        self.log_stats = facts.log_stats
        configuration.complete(self.vllm_config, facts)

    # --- life ---

    @property
    def is_running(self) -> bool:
        return not self.errored

    @property
    def is_stopped(self) -> bool:
        return self.errored

    @property
    def errored(self) -> bool:
        """Whether the engine is gone: it died, or was shut down."""
        connection = self._connection
        return (connection is not None and connection.dead is not None) or self._ended

    @property
    def dead_error(self) -> BaseException:
        connection = self._connection
        why = connection.dead if connection is not None else None
        error: BaseException = EngineDeadError(*([why] if why else []))
        return error

    # --- load ---

    def get_num_unfinished_requests(self) -> int:
        """As the engine said with its last message."""
        return self._connection.unfinished if self._connection is not None else 0

    def get_num_queued_tokens(self) -> int:
        """As the engine said with its last message."""
        return self._connection.queued_tokens if self._connection is not None else 0

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Refuse what would be over the engine's limits, going by its last message.

        Raises: QueueOverflowError, MaxQueuedTokensError (vLLM's).
        """
        requests, tokens = self._facts.max_num_queued_reqs, self._facts.max_num_queued_tokens
        if requests is not None and self.get_num_unfinished_requests() + n > requests:
            raise exceptions.QueueOverflowError
        if tokens is not None and self.get_num_queued_tokens() >= tokens:
            raise exceptions.MaxQueuedTokensError

    def get_kv_event_sources(self) -> dict[int, Any]:
        sources: dict[int, Any] = self._facts.kv_event_sources
        return sources

    # --- configuration ---

    @property
    def model_config(self) -> Any:
        return self.vllm_config.model_config

    @property
    def scheduler_config(self) -> Any:
        return self.vllm_config.scheduler_config

    @property
    def observability_config(self) -> Any:
        return self.vllm_config.observability_config

    @cached_property
    def renderer(self) -> Any:
        from vllm.renderers import renderer_from_config

        return renderer_from_config(_complete(self.vllm_config))

    @cached_property
    def input_processor(self) -> Any:
        from vllm.v1.engine.input_processor import InputProcessor

        return InputProcessor(self.vllm_config, self.renderer)

    @property
    def tokenizer(self) -> Any:
        return self.renderer.tokenizer

    def get_tokenizer(self) -> Any:
        return self.renderer.get_tokenizer()


def _complete(config: Any) -> Any:
    """For a renderer that leaves nothing out of a multi-modal prompt. vLLM's does where it thinks that the engine has
    it cached, which it can know only of an engine that has no other renderer; this one has."""
    shared, parallel = copy.copy(config), copy.copy(config.parallel_config)
    parallel._api_process_count = 2
    shared.parallel_config = parallel
    return shared
