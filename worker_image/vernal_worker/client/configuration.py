"""vLLM's configuration of the engine, in the program's process: what `AsyncLLM.vllm_config` is."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from vernal_contract.config import WorkerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from vernal_worker.engine import wire
from vernal_worker.supervisor import engine_args
from vernal_worker.supervisor.engine_args import ArgumentError
from vernal_worker.supervisor.environment import KEPT, TUNING


def make(worker: WorkerConfig) -> Any:
    """A VllmConfig as the engine's own was before it started. Takes a second or more.

    Raises: as `build`.
    """
    return build(engine_args.for_freezing(engine_args.engine_arguments(worker)))


def build(arguments: Mapping[str, Any]) -> Any:
    """The VllmConfig of an engine with these arguments (canonical): made from the same options, in the same way.

    Raises:
        ArgumentError: vLLM does not take an argument.
        Exception: what vLLM raises when a value is not possible.
    """
    parser = AsyncEngineArgs.add_cli_args(_Parser(prog="vLLM", add_help=False))
    # The others are options of its server, which is the program's.
    known, _ = parser.parse_known_args(engine_args.options(arguments))
    with environment_kept():
        return AsyncEngineArgs.from_cli_args(known).create_engine_config(UsageContext.OPENAI_API_SERVER)


def complete(config: Any, facts: wire.Welcome) -> None:
    """Fill in what the engine found out when it started, as AsyncLLM does."""
    config.model_config.max_model_len = facts.max_model_len
    for name, value in facts.cache.items():
        setattr(config.cache_config, name, value)


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vllm has no types for us
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message)


@contextmanager
def environment_kept() -> Iterator[None]:
    """vLLM sets variables that shape an engine. With them the program's next engine would be another one than its
    checkpoint's."""
    before = _shaping(os.environ)
    try:
        yield
    finally:
        after = _shaping(os.environ)
        for name in after.keys() | before.keys():
            if after.get(name) == before.get(name):
                continue
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _shaping(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name in KEPT or name.startswith(TUNING)}
