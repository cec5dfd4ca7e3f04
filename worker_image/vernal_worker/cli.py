"""`vernal-worker`: runs a worker, and looks at checkpoints and at the host.

Each command imports what it needs when it runs, so that `run` pays for nothing else.
"""

import argparse
import sys
from collections.abc import Sequence

_DESCRIPTION = """\
Runs one vLLM worker (the default), or looks after checkpoints.

A worker is told everything in VERNAL_CONFIG (JSON, see vernal_contract.config.WorkerConfig); the operator
sets it. By hand, in namespaces of its own like a container's:

  export VERNAL_CONFIG='{"pool":"p","namespace":"n","revision":"1",
    "model":{"name":"m","path":"/models/m"},"checkpoint":{"storePath":"/srv/store"}}'
  unshare --pid --fork --mount --mount-proc sh -c \\
    'mount -t tmpfs t /dev/shm && mount -t tmpfs t /run && exec vernal-worker run'

Then: curl localhost:9100/state    curl localhost:8000/v1/models
"""

_EXIT_CODES = """\
exit codes of `run`: 0 told to stop, 3 VERNAL_CONFIG is wrong, 4 a port is taken, 10 the engine did not start,
11 policy Required and no thaw, 12 the engine died, 13 stopped at once by a third signal
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point. Exits with the command's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in ([], ["run"]):
        from vernal_worker.checkpoint.cuda import launch

        launch.begin()
        from vernal_worker.supervisor.main import run

        sys.exit(run())
    parsed = _parser().parse_args(arguments)
    from vernal_worker import commands

    command = {
        "inspect": commands.inspect,
        "verify": commands.verify,
        "diff": commands.diff,
        "gc": commands.gc,
        "doctor": commands.doctor,
    }[parsed.command]
    sys.exit(command(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vernal-worker",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="run a worker as VERNAL_CONFIG says (the default)")
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument(
        "--store",
        metavar="PATH",
        help="the store's directory; default: the one in VERNAL_CONFIG, else /var/lib/vernal/store",
    )
    picked = argparse.ArgumentParser(add_help=False)
    picked.add_argument(
        "--identity", metavar="HEX", default="", help="only artifacts whose identity starts so; default: all"
    )
    commands.add_parser("inspect", parents=[store, picked], help="list the store's artifacts: what, when, how big")
    commands.add_parser(
        "verify", parents=[store, picked], help="check every byte of the artifacts; 1 if one is damaged"
    )
    commands.add_parser(
        "diff",
        parents=[store],
        help="say in which fields this worker and this host differ from the artifacts; 1 if none fits",
    )
    gc = commands.add_parser("gc", parents=[store], help="delete what nobody can need any more")
    gc.add_argument("--identity", metavar="HEX", help="delete all artifacts of this identity instead (64 hex digits)")
    gc.add_argument(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=3600.0,
        help="keep what was in use so recently; longer than any freeze or thaw (default %(default)g)",
    )
    commands.add_parser("doctor", help="say whether this host can freeze and thaw, and what to do if not")
    return parser
