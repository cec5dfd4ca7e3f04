"""`vernal-worker`: runs a worker, and looks at checkpoints and at the host.

Each command imports what it needs when it runs, so that `run` pays for nothing else.
"""

import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from vernal_worker import imports

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point. Exits with the command's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in ([], ["run"]):
        gc.disable()  # to look for garbage in what is imported costs a start 8 ms
        from vernal_worker.supervisor import software

        software.begin()
        from vernal_worker.checkpoint.cuda import launch

        launch.begin()
        imports.msgspec_alone()
        from vernal_worker.supervisor.main import run

        gc.freeze()  # what is imported stays: to look at it once more would cost 6 ms
        gc.enable()
        sys.exit(run())
    from vernal_worker.arguments import parser

    _command(parser().parse_args(arguments))


def _command(parsed: "argparse.Namespace") -> NoReturn:
    if parsed.command == "gc":
        _refuse_what_would_be_ignored(parsed)
    from vernal_worker import commands
    from vernal_worker.store.errors import StoreError
    from vernal_worker.supervisor.exits import ExitCode

    if parsed.command == "bucket":
        from vernal_worker import bucket_commands

        command = bucket_commands.run
    elif parsed.command == "cache":
        from vernal_worker import cache_commands

        command = cache_commands.run
    else:
        command = {
            "inspect": commands.inspect,
            "verify": commands.verify,
            "diff": commands.diff,
            "gc": commands.gc,
            "du": commands.du,
            "doctor": commands.doctor,
        }[parsed.command]
    try:
        sys.exit(int(command(parsed)))
    except commands.CommandError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.code))
    except StoreError as error:
        print(f"{error.reason}: {error.message}", file=sys.stderr)
        sys.exit(int(ExitCode.INTERNAL))


def _refuse_what_would_be_ignored(parsed: "argparse.Namespace") -> None:
    """A full `gc` must not run in place of what was meant."""
    for name, needed in (("host", "identity"), ("user", "identity"), ("patience", "identity"), ("known", "user")):
        if getattr(parsed, name) is not None and not getattr(parsed, needed):
            parsed.parser.error(f"argument --{name}: says nothing without --{needed}")
