"""`kubectl vernal rollback POOL`."""

import argparse

from kubectl_vernal import read
from kubectl_vernal.errors import Exit
from kubectl_vernal.options import Context, Subparsers, pool_argument, verb
from kubectl_vernal.views import rollback


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "rollback",
        run,
        "bring a pool's spec back to an earlier revision",
        "Writes what the ControllerRevision kept over the pool's spec: image, model, engine arguments, pod "
        "template, ...; replicas, rollout, autoscaling and retention stay. Without --to it is the revision that "
        "proved itself last, if that is another one, else the one before. Where a manifest in Git is applied, "
        "revert it there too: the next apply would bring the new spec back.",
        "  kubectl vernal rollback qwen --list\n"
        "  kubectl vernal rollback qwen --dry-run       # which fields change\n"
        "  kubectl vernal rollback qwen --to 6f1c2a90",
        forms=(),
    )
    pool_argument(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--to", metavar="REVISION", default="", help="as --list and status show it")
    what.add_argument("--list", action="store_true", help="list the revisions that are kept")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")


def run(context: Context, args: argparse.Namespace) -> int:
    pool = read.one(context.cluster, read.POOLS, context.home, args.pool)
    world = read.world(context.cluster, context.home, ("controllerrevisions",), pool=args.pool)
    if args.list:
        context.say(*rollback.listing(world, pool))
        return Exit.OK
    chosen = rollback.choose(world, pool, args.to)
    spec = rollback.spec_of(pool, chosen)
    changes = rollback.changes(pool["spec"], spec)
    if not changes:
        context.say(f"pool {args.pool}: its spec is revision {rollback.called(chosen)} already")
        return Exit.OK
    context.cluster.patch(read.object_path(read.POOLS, pool), rollback.patch(pool, spec), dry_run=args.dry_run)
    word = "would go back" if args.dry_run else "goes back"
    context.say(f"pool {args.pool}: {word} to revision {rollback.called(chosen)}", *(f"  {line}" for line in changes))
    return Exit.OK
