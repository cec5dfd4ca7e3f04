"""Ways to an engine: what makes a `CheckpointableAsyncLLM`."""

import asyncio
import os
from pathlib import Path
from typing import Any, Self, cast

import msgspec
from vernal_contract.config import CheckpointConfig, CheckpointPolicy, WorkerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext

from vernal_worker.client import arguments, derived, settings
from vernal_worker.client.host import EngineFailedError
from vernal_worker.client.in_process import InProcessAsyncLLM
from vernal_worker.client.messages import How
from vernal_worker.store.errors import StoreError

PathLike = str | os.PathLike[str]


class Ways:
    """Mixed into `CheckpointableAsyncLLM`."""

    def __init__(self, worker: WorkerConfig, *, criu: str, output: int | None) -> None:
        raise NotImplementedError

    def _start(self, how: How) -> Self:
        raise NotImplementedError

    async def _started(self, how: How) -> Self:
        """As `_start`, without blocking the event loop."""
        raise NotImplementedError

    @classmethod
    async def create(
        cls,
        model: str,
        *,
        start: How | str | None = None,
        checkpoint_dir: PathLike | None = None,
        checkpoint: CheckpointConfig | None = None,
        criu: str | None = None,
        output: int | None = None,
        **engine_args: Any,
    ) -> Self:
        """Start or thaw an engine.

        Args:
            model: a directory, or a name on the Hugging Face hub.
            start: `cold` starts vLLM; `thaw` thaws or fails; `auto` thaws a checkpoint that fits or, if there is none,
                starts vLLM and makes one; `disabled` makes a plain AsyncLLM in this process, which blocks the event
                loop as AsyncLLM does. Default: VERNAL_START, else `auto`.
            checkpoint_dir: a directory for checkpoints, of any number of engines; default: VERNAL_CHECKPOINT_DIR.
                Without one, `auto` means `cold`.
            checkpoint: time-outs and how much is verified; its policy and store path are not looked at.
            criu: CRIU's path; default: VERNAL_CRIU, else `criu` on the PATH.
            output: descriptor for what the engine writes; default: the program's stderr.
            engine_args: vLLM's (`AsyncEngineArgs`), in plain values.

        Raises:
            EngineFailedError: there is no engine; the message says why and what to do.
            ArgumentError: an engine argument cannot be sent, or needs a network.
            ValueError: `start` is none of these, thawing has no directory, or `checkpoint` names a bucket.
            Exception: what vLLM raises for an engine argument that is not possible.
        """
        how, place = settings.choice(start, checkpoint_dir)
        if how is How.DISABLED:
            return cls._in_process(AsyncEngineArgs(model=model, **engine_args), UsageContext.OPENAI_API_SERVER)
        config = await asyncio.to_thread(_checkpoint, checkpoint, place, how)
        worker = await asyncio.to_thread(settings.worker_config, {"model": model, **engine_args}, config)
        return await cls(worker, criu=_criu(criu), output=output)._started(how)

    @classmethod
    async def thaw(
        cls,
        checkpoint_dir: PathLike,
        *,
        checkpoint: CheckpointConfig | None = None,
        criu: str | None = None,
        output: int | None = None,
    ) -> Self:
        """Thaw the newest checkpoint in `checkpoint_dir`, with the engine arguments that it was made with.

        Raises:
            EngineFailedError: there is none, it does not fit this host or these versions, or it is damaged.
            Exception: what vLLM raises when it cannot read the model's configuration.
        """
        config = await asyncio.to_thread(_checkpoint, checkpoint, checkpoint_dir)
        worker = await asyncio.to_thread(settings.frozen_config, config)
        return await cls(worker, criu=_criu(criu), output=output)._started(How.THAW)

    @classmethod
    def from_engine_args(
        cls,
        engine_args: Any,
        start_engine_loop: bool = True,
        usage_context: UsageContext = UsageContext.ENGINE_CONTEXT,
        stat_loggers: list[Any] | None = None,
        *,
        start: How | str | None = None,
        checkpoint_dir: PathLike | None = None,
        checkpoint: CheckpointConfig | None = None,
        criu: str | None = None,
        output: int | None = None,
    ) -> Self:
        """As AsyncLLM's, blocking, with `create`'s keywords. `start_engine_loop` and `usage_context` have no effect
        unless checkpointing is disabled.

        Raises:
            ArgumentError: `stat_loggers` are objects of this process and cannot be in the engine's.
            EngineFailedError, ArgumentError, ValueError: as `create`.
        """
        how, place = settings.choice(start, checkpoint_dir)
        if how is How.DISABLED:
            return cls._in_process(engine_args, usage_context, stat_loggers)
        arguments.refuse_given("from_engine_args", stat_loggers=stat_loggers)
        worker = settings.worker_config(arguments.plain(engine_args), _checkpoint(checkpoint, place, how))
        return cls(worker, criu=_criu(criu), output=output)._start(how)

    @classmethod
    def from_vllm_config(
        cls,
        vllm_config: Any,
        start_engine_loop: bool = True,
        usage_context: UsageContext = UsageContext.ENGINE_CONTEXT,
        stat_loggers: list[Any] | None = None,
        enable_log_requests: bool = False,
        aggregate_engine_logging: bool = False,
        disable_log_stats: bool = False,
        client_addresses: dict[str, Any] | None = None,
        client_count: int = 1,
        client_index: int = 0,
        *,
        engine_args: Any = None,
        start: How | str | None = None,
        checkpoint_dir: PathLike | None = None,
        checkpoint: CheckpointConfig | None = None,
        criu: str | None = None,
        output: int | None = None,
    ) -> Self:
        """As AsyncLLM's, blocking, with `create`'s keywords.

        Args:
            engine_args: the AsyncEngineArgs that `vllm_config` was made from, before or after it was: a checkpoint is
                known by them. Default: they are told from `vllm_config`.

        Raises:
            ArgumentError: what is given cannot be in another process, or `vllm_config` has settings that its engine
                arguments do not; it names them.
            EngineFailedError, ArgumentError, ValueError: as `create`.
        """
        how, place = settings.choice(start, checkpoint_dir)
        logging = {
            "enable_log_requests": enable_log_requests,
            "aggregate_engine_logging": aggregate_engine_logging,
            "disable_log_stats": disable_log_stats,
        }
        clients = {
            "client_addresses": client_addresses,
            "client_count": client_count if client_count != 1 else None,
            "client_index": client_index or None,
        }
        if how is How.DISABLED:
            given = {**logging, **{name: value for name, value in clients.items() if value is not None}}
            llm = InProcessAsyncLLM.from_vllm_config(
                vllm_config, start_engine_loop, usage_context, stat_loggers, **given
            )
            return cast(Self, llm)
        arguments.refuse_given("from_vllm_config", stat_loggers=stat_loggers, **clients)
        found = arguments.plain(engine_args) if engine_args is not None else derived.engine_args(vllm_config)
        found |= {name: True for name, value in logging.items() if value}
        worker = settings.worker_config(found, _checkpoint(checkpoint, place, how))
        return cls(worker, criu=_criu(criu), output=output)._start(how)

    @classmethod
    def _in_process(
        cls,
        engine_args: Any,
        usage_context: UsageContext = UsageContext.ENGINE_CONTEXT,
        stat_loggers: list[Any] | None = None,
    ) -> Self:
        llm = InProcessAsyncLLM.from_engine_args(engine_args, usage_context=usage_context, stat_loggers=stat_loggers)
        return cast(Self, llm)


def _checkpoint(
    checkpoint: CheckpointConfig | None, directory: PathLike | None, how: How = How.THAW
) -> CheckpointConfig:
    """Raises: EngineFailedError: the directory cannot be made; ValueError: it is to be a bucket."""
    if checkpoint is not None and checkpoint.object_store is not None:
        raise ValueError("checkpoint.object_store is for pools: a program's checkpoints are in checkpoint_dir")
    store = str(Path(directory).resolve()) if directory is not None else ""
    if store and how is not How.THAW:
        try:
            settings.make_directory(Path(store))
        except StoreError as error:
            raise EngineFailedError(error.reason, f"checkpoint_dir: {error.message}") from error
    return msgspec.structs.replace(
        checkpoint or CheckpointConfig(), policy=CheckpointPolicy.AUTO, store_path=store or "/nonexistent"
    )


def _criu(criu: str | None) -> str:
    return criu or os.environ.get("VERNAL_CRIU") or "criu"
