"""`kubectl vernal freeze POOL`."""

import argparse
import datetime

from vernal_contract import names

from kubectl_vernal import read
from kubectl_vernal.cluster import Object
from kubectl_vernal.errors import Exit
from kubectl_vernal.options import Context, Subparsers, pool_argument, verb


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "freeze",
        run,
        "ask for a new checkpoint of a pool",
        f"Sets the annotation {names.ANNOTATION_RENEW} of the pool to the time of now; the operator then has a "
        "new checkpoint made. Pods that serve go on.",
        "  kubectl vernal freeze qwen\n  kubectl vernal freeze qwen --dry-run    # may you, and is there such a pool?",
        forms=(),
    )
    pool_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="have the API server check it, and change nothing")


def request(now: datetime.datetime) -> Object:
    """The merge patch that asks: a value that was not there before."""
    return {"metadata": {"annotations": {names.ANNOTATION_RENEW: now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}}


def run(context: Context, args: argparse.Namespace) -> int:
    pool = read.one(context.cluster, read.POOLS, context.home, args.pool)
    body = request(datetime.datetime.now(datetime.UTC))
    context.cluster.patch(read.object_path(read.POOLS, pool), body, dry_run=args.dry_run)
    if args.dry_run:
        context.say(f"pool {args.pool}: would be asked for a new checkpoint (dry run)")
    else:
        context.say(f"pool {args.pool}: asked for a new checkpoint; `kubectl vernal status {args.pool}` shows it come")
    return Exit.OK
