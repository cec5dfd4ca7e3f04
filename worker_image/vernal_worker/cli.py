"""`vernal-worker`: runs a worker, and looks at checkpoints and at the host.

Each command imports what it needs when it runs, so that `run` pays for nothing else.
"""

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

from vernal_contract import names

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


_BUCKET = """\
Credentials are the environment's: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity, an instance's role, or
what Google Cloud and Azure have of the kind. They must allow to get, put, list and delete objects.

  vernal-worker bucket push s3://models/vernal                        # from this pod's store
  vernal-worker bucket ls   s3://models/vernal
  vernal-worker bucket pull s3://models/vernal --identity HEX         # in a pod of another cluster

Nothing is sent or fetched twice: what is there already is recognised by its digest. Every byte that is fetched is
compared with the manifest.
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

    if parsed.command == "bucket":
        from vernal_worker import bucket_commands

        command = bucket_commands.run
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


def _exit_codes() -> str:
    from vernal_worker.supervisor import exits

    lines: list[str] = []
    for title, meaning in (("run", exits.MEANING), ("the other commands", exits.COMMAND_MEANING)):
        lines += [f"exit codes of {title}:", *(f"  {int(code):2}  {text}" for code, text in meaning.items())]
    return "\n".join(lines)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")


def _identity(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an identity (64 hex digits, `inspect` shows the first 16)")
    return text


def _beginning(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the beginning of an identity (1 to 64 hex digits)")
    return text


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vernal-worker",
        description=_DESCRIPTION,
        epilog=_exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="run a worker as VERNAL_CONFIG says (the default)")
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument(
        "--store",
        metavar="PATH",
        type=_path,
        help="the store's directory; default: the one in VERNAL_CONFIG, else /var/lib/vernal/store",
    )
    picked = argparse.ArgumentParser(add_help=False)
    picked.add_argument(
        "--identity", metavar="HEX", type=_beginning, help="only artifacts whose identity starts so; default: all"
    )
    commands.add_parser("inspect", parents=[store, picked], help="list the store's artifacts: what, when, how big")
    commands.add_parser(
        "verify",
        parents=[store, picked],
        help="check every byte of the artifacts; 1 if one is damaged or cannot be read",
    )
    commands.add_parser(
        "diff",
        parents=[store],
        help="say in which fields this worker and this host differ from the artifacts, and so what splits a fleet;"
        " 1 if none fits",
    )
    gc = commands.add_parser("gc", parents=[store], help="delete what nobody can need any more")
    gc.add_argument(
        "--identity",
        metavar="HEX",
        type=_identity,
        help="remove the artifacts of this identity as well (64 hex digits), unless another uses them; 1 if a worker "
        "reads or makes one at the moment",
    )
    gc.add_argument("--host", metavar="HEX", type=_identity, help="of this host tuple only (64 hex digits)")
    gc.add_argument("--user", metavar="NAME", default="", help="who lets go of them; `du` shows who uses what")
    gc.add_argument(
        "--known",
        metavar="HEX/HEX,...",
        help=f"name artifacts that only --user uses and that are none of these (identity/host tuple); default: "
        f"{names.ENV_KNOWN}, which the operator sets",
    )
    gc.add_argument("--dry-run", action="store_true", help="say what would be deleted and why, and delete nothing")
    gc.add_argument(
        "--grace",
        metavar="SECONDS",
        type=_seconds,
        help="keep what was in use so recently (default 3600; with --identity, as long as machines may see different "
        "things: 120 on a network file system, else 0)",
    )
    gc.add_argument(
        "--patience",
        metavar="SECONDS",
        type=_seconds,
        default=0.0,
        help="with --identity: wait so long for who is at work (default %(default)g)",
    )
    du = commands.add_parser("du", parents=[store], help="say how big what in the store is and who holds it")
    du.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: %(default)s")
    doctor = commands.add_parser("doctor", help="say whether this host can freeze and thaw, and what to do if not")
    doctor.add_argument(
        "--store", metavar="PATH", type=_path, help="look at this file system instead: can it hold a store?"
    )
    _add_bucket(commands, store, picked)
    return parser


def _add_bucket(commands: Any, store: argparse.ArgumentParser, picked: argparse.ArgumentParser) -> None:
    bucket = commands.add_parser(
        "bucket",
        help="checkpoints between the store and a bucket: to keep them, or to have them in another cluster",
        description=_BUCKET,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = bucket.add_subparsers(dest="action", required=True, metavar="ACTION")
    there = argparse.ArgumentParser(add_help=False)
    there.add_argument("url", metavar="URL", type=_path, help="s3://BUCKET/PREFIX, gs://… or az://…")
    there.add_argument("--endpoint", metavar="URL", help="of an S3 server that is not AWS; default: AWS_ENDPOINT_URL")
    there.add_argument("--region", metavar="NAME", help="default: AWS_REGION")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument(
        "--identity", metavar="HEX", type=_identity, required=True, help="64 hex digits, `ls` shows them"
    )
    named.add_argument("--host", metavar="HEX", type=_identity, help="of this host tuple only (64 hex digits)")
    actions.add_parser("ls", parents=[there, picked], help="list what is current; 1 if something cannot be read")
    push = actions.add_parser("push", parents=[there, store, picked], help="publish the store's artifacts")
    push.add_argument("--replace", action="store_true", help="also where another artifact is current")
    actions.add_parser(
        "pull", parents=[there, store, named], help="bring artifacts into the store, and make them current"
    )
    actions.add_parser("rm", parents=[there, named], help="let nobody find artifacts any more; `gc` deletes them later")
    gc = actions.add_parser("gc", parents=[there], help="delete what nobody can need any more; safe at any time")
    gc.add_argument("--dry-run", action="store_true", help="say what would be deleted and why, and delete nothing")
    gc.add_argument(
        "--grace",
        metavar="SECONDS",
        type=_seconds,
        help="keep what was in use so recently (default 7200; less only while nobody pushes or pulls)",
    )
