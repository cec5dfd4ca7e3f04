"""The command line of `vernal-worker`, apart from `cli`: `run`, which a thaw begins with, takes no arguments."""

import argparse
import contextlib
import math
import re
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


_CACHE = """\
A worker fills its node's cache when it serves. This fills it before a worker is there: the operator's Jobs run it,
where `nodeCache.prefetch` of the chart is set, with the store read-only. By hand, on a node or in a pod that mounts
both:

  vernal-worker cache fill --identity HEX --host HEX --store /mnt/store --cache /var/lib/vernal-cache/NAMESPACE \\
    --size 107374182400                                               # `du -o json` shows identities and hosts

What is there already is not copied again, and every byte that is copied is compared with the manifest. From a bucket
(`--bucket`) it goes straight to the cache. It may be killed at any time: a file gets its name when it is whole.
"""


def _exit_codes(of: str = "") -> str:
    """Of `run`, of another command, or of all."""
    from vernal_worker.supervisor import exits

    tables = {"run": exits.MEANING, "the other commands": exits.COMMAND_MEANING}
    if of:
        tables = {"": tables["run" if of == "run" else "the other commands"]}
    lines: list[str] = []
    for title, meaning in tables.items():
        lines += [f"exit codes{f' of {title}' if title else ''}:"]
        lines += [f"  {int(code):2}  {text}" for code, text in meaning.items()]
    return "\n".join(lines)


def _verb(subparsers: Any, name: str, **options: Any) -> argparse.ArgumentParser:
    """A command, whose help ends with its exit codes."""
    made: argparse.ArgumentParser = subparsers.add_parser(
        name, epilog=_exit_codes(name), formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )
    made.set_defaults(parser=made)
    return made


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")


def _count(text: str) -> int:
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, 1 or more")


def _identity(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an identity (64 hex digits, `inspect` shows the first 16)")
    return text


def _beginning(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the beginning of an identity (1 to 64 hex digits)")
    return text


def _known(text: str) -> list[str]:
    from vernal_worker.store import usage

    try:
        return usage.keys(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def parser() -> argparse.ArgumentParser:
    """Of `vernal-worker`; what it parses has the attribute `parser`, that of the command."""
    whole = argparse.ArgumentParser(
        prog="vernal-worker",
        description=_DESCRIPTION,
        epilog=_exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _verb(commands, "run", help="run a worker as VERNAL_CONFIG says (the default)")
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
    _verb(commands, "inspect", parents=[store, picked], help="list the store's artifacts: what, when, how big")
    _verb(
        commands,
        "verify",
        parents=[store, picked],
        help="check every byte of the artifacts; 1 if one is damaged or cannot be read",
    )
    _verb(
        commands,
        "diff",
        parents=[store],
        help="say in which fields this worker and this host differ from the artifacts, and so what splits a fleet;"
        " 1 if none fits",
    )
    gc = _verb(commands, "gc", parents=[store], help="delete what nobody can need any more")
    gc.add_argument(
        "--identity",
        metavar="HEX",
        type=_identity,
        help="remove the artifacts of this identity as well (64 hex digits), unless another uses them; 1 if a worker "
        "reads or makes one at the moment",
    )
    gc.add_argument("--host", metavar="HEX", type=_identity, help="of this host tuple only (64 hex digits)")
    gc.add_argument("--user", metavar="NAME", help="who lets go of them; `du` shows who uses what")
    gc.add_argument(
        "--known",
        metavar="HEX/HEX,...",
        type=_known,
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
        help="with --identity: wait so long for who is at work (default 0)",
    )
    du = _verb(commands, "du", parents=[store], help="say how big what in the store is and who holds it")
    du.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: %(default)s")
    doctor = _verb(commands, "doctor", help="say whether this host can freeze and thaw, and what to do if not")
    doctor.add_argument(
        "--store", metavar="PATH", type=_path, help="look at this file system instead: can it hold a store?"
    )
    _add_bucket(commands, store, picked)
    _add_cache(commands, store)
    return whole


def _add_cache(commands: Any, store: argparse.ArgumentParser) -> None:
    cache = _verb(commands, "cache", help="the node's copies of checkpoints", description=_CACHE)
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    fill = _verb(
        actions,
        "fill",
        parents=[store],
        help="copy a checkpoint's files there; 1 if they are not there in the end, and why",
        description=_CACHE,
    )
    fill.add_argument("--identity", metavar="HEX", type=_identity, required=True, help="64 hex digits")
    fill.add_argument("--host", metavar="HEX", type=_identity, required=True, help="its host tuple, 64 hex digits")
    fill.add_argument("--generation", metavar="NAME", help="copy nothing if another one is current")
    fill.add_argument(
        "--cache", metavar="PATH", type=_path, help=f"the cache's directory; default: {names.PATH_NODE_CACHE}, mounted"
    )
    fill.add_argument(
        "--size",
        metavar="BYTES",
        type=_count,
        help=f"what the cache may have; what was not used for longest makes room; default: {names.ENV_NODE_CACHE}",
    )
    fill.add_argument(
        "--bucket",
        metavar="URL",
        type=_path,
        help="s3://BUCKET/PREFIX, gs://… or az://…: fetch it from there, and not from a store",
    )
    fill.add_argument(
        "--endpoint", metavar="URL", help="of a server that is not the cloud's own; default, for S3: AWS_ENDPOINT_URL"
    )
    fill.add_argument("--region", metavar="NAME", help="default: AWS_REGION")


def _add_bucket(commands: Any, store: argparse.ArgumentParser, picked: argparse.ArgumentParser) -> None:
    bucket = _verb(
        commands,
        "bucket",
        help="checkpoints between the store and a bucket: to keep them, or to have them in another cluster",
        description=_BUCKET,
    )
    actions = bucket.add_subparsers(dest="action", required=True, metavar="ACTION")
    there = argparse.ArgumentParser(add_help=False)
    there.add_argument("url", metavar="URL", type=_path, help="s3://BUCKET/PREFIX, gs://… or az://…")
    there.add_argument(
        "--endpoint", metavar="URL", help="of a server that is not the cloud's own; default, for S3: AWS_ENDPOINT_URL"
    )
    there.add_argument("--region", metavar="NAME", help="default: AWS_REGION")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument(
        "--identity", metavar="HEX", type=_identity, required=True, help="64 hex digits, `ls` shows them"
    )
    named.add_argument("--host", metavar="HEX", type=_identity, help="of this host tuple only (64 hex digits)")
    _verb(actions, "ls", parents=[there, picked], help="list what is current; 1 if something cannot be read")
    push = _verb(
        actions,
        "push",
        parents=[there, store, picked],
        help="publish the store's artifacts; 1 if one cannot be read or is not published, or there is none",
    )
    push.add_argument("--replace", action="store_true", help="also where another artifact is current")
    _verb(actions, "pull", parents=[there, store, named], help="bring artifacts into the store, and make them current")
    rm = _verb(
        actions, "rm", parents=[there, named], help="let nobody find artifacts any more; `gc` deletes them later"
    )
    rm.add_argument("--user", metavar="NAME", help="who lets go of them: what others use stays; default: remove it")
    rm.add_argument("--gc", action="store_true", help="and delete what nobody can need any more, as `gc` does")
    rm.set_defaults(dry_run=False, grace=None)
    gc = _verb(actions, "gc", parents=[there], help="delete what nobody can need any more; safe at any time")
    gc.add_argument("--dry-run", action="store_true", help="say what would be deleted and why, and delete nothing")
    gc.add_argument(
        "--grace",
        metavar="SECONDS",
        type=_seconds,
        help="keep what was in use so recently (default 7200; less only while nobody pushes or pulls)",
    )
