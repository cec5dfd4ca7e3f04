"""vLLM's configuration of the engine, in the program's process: what `AsyncLLM.vllm_config` is."""

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
import vllm.logger
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from vernal_contract.config import WorkerConfig
from vernal_contract.variables import KEPT, TUNING
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from vernal_worker.engine import wire
from vernal_worker.supervisor import engine_args
from vernal_worker.supervisor.engine_args import ArgumentError

_IMPORTED = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TRITON_CACHE_AUTOTUNING": "1"}
"""What vLLM sets when it is imported (`vllm/env_override.py`)."""

_ON_CPU = {
    "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1",
    "VLLM_DISABLE_SHARED_EXPERTS_STREAM": "1",
    "VLLM_SSM_CONV_STATE_LAYOUT": "SD",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""And when it makes a VllmConfig (`vllm/platforms/cpu.py`, `check_and_update_config`). Besides, it preloads libraries
of torch's and its own."""


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
    parser = AsyncEngineArgs.add_cli_args(_Parser(prog="vLLM", add_help=False, allow_abbrev=False))
    known, others = parser.parse_known_args(options := engine_args.options(arguments))
    if others:  # Options of its server, which is the program's. It takes a second to import.
        from vernal_worker.engine.server_arguments import make_arg_parser

        make_arg_parser(_Parser(prog="vLLM", allow_abbrev=False)).parse_args(options)
    args = AsyncEngineArgs.from_cli_args(known)
    if (logging_config := getattr(args, "create_logging_config", None)) is not None:  # 0.26 has none
        vllm.logger.configure_logging_if_needed(logging_config())
    with environment_kept(), _quiet():
        return args.create_engine_config(UsageContext.OPENAI_API_SERVER)


def complete(config: Any, facts: wire.Welcome) -> None:
    """Fill in what the engine found out when it started, as AsyncLLM does."""
    config.model_config.max_model_len = facts.max_model_len
    for name, value in facts.cache.items():
        setattr(config.cache_config, name, value)


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vllm has no types for us
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message)


def environment() -> dict[str, str]:
    """The program's, without what vLLM and torch set by themselves. They do so in each engine, too: how far a program
    has used them must not make another engine."""
    on_cpu = current_platform.is_cpu()
    theirs = {**_IMPORTED, "TORCHINDUCTOR_CACHE_DIR": default_cache_dir(), **(_ON_CPU if on_cpu else {})}
    variables = {name: value for name, value in os.environ.items() if theirs.get(name) != value}
    if on_cpu and (preloaded := variables.pop("LD_PRELOAD", "")):
        places = [Path(torch.__file__).parents[1], Path(vllm.__file__).parents[1]]
        others = [path for path in preloaded.split(":") if not any(Path(path).is_relative_to(p) for p in places)]
        if others:
            variables["LD_PRELOAD"] = ":".join(others)
    return variables


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


@contextmanager
def _quiet() -> Iterator[None]:
    """What vLLM logs meanwhile in this thread, the engine's process logs, too, where the program wants it; here it
    would come on the program's stdout."""
    this = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != this or record.levelno >= logging.ERROR

    handlers = logging.getLogger("vllm").handlers.copy()
    for handler in handlers:
        handler.addFilter(of_others)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(of_others)


def _shaping(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name in KEPT or name.startswith(TUNING)}
