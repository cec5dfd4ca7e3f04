"""`kubectl vernal thaw --dry-run POOL`."""

import argparse

from kubectl_vernal import read
from kubectl_vernal.errors import Exit, UsageError
from kubectl_vernal.options import Context, Subparsers, pool_argument, verb
from kubectl_vernal.views import thaw

_KINDS = (read.POOLS, read.CHECKPOINTS, "nodes")


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "thaw",
        run,
        "would a pod of this pool thaw, on which nodes, and why not",
        "Nobody thaws by hand: each pod that a pool makes thaws if it can. --dry-run, which must be given, says "
        "whether one would, node by node. Exit code 1 if none would.",
        "  kubectl vernal thaw --dry-run qwen",
    )
    pool_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be")


def run(context: Context, args: argparse.Namespace) -> int:
    if not args.dry_run:
        asked = f"`kubectl vernal thaw --dry-run {args.pool}`"
        raise UsageError(f"pods thaw by themselves when they are made; {asked} says whether one would")
    pool = read.one(context.cluster, read.POOLS, context.home, args.pool)
    found = thaw.view(read.world(context.cluster, context.home, _KINDS), pool)
    context.show(found, lambda: thaw.text(found, context.paint))
    return Exit.NO if found["would"] == "no" else Exit.OK
