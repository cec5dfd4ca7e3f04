"""`kubectl vernal status [POOL]`."""

import argparse

from kubectl_vernal import read
from kubectl_vernal.errors import Exit
from kubectl_vernal.options import Context, Subparsers, pool_argument, verb
from kubectl_vernal.views import status

_KINDS = (read.POOLS, "pods", read.CHECKPOINTS, "horizontalpodautoscalers")


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "status",
        run,
        "pools: revisions, pods, how they started, checkpoint, autoscaling, drains, and why something is not ready",
        "Without POOL one line a pool; with it all of that pool. Exit code 1 if a pool is not ready or degraded.",
        "  kubectl vernal status -A            # every pool, and what is wrong with it\n"
        "  kubectl vernal status qwen          # one pool with its pods\n"
        "  kubectl vernal status qwen -o json | jq '.[0].pods[] | select(.startMode == \"Cold\") | .name'",
        everywhere=True,
        forms=("wide", "json", "yaml"),
    )
    pool_argument(parser, optional=True)


def run(context: Context, args: argparse.Namespace) -> int:
    if args.pool:
        read.one(context.cluster, read.POOLS, context.home, args.pool)
    where = context.home if args.pool else context.namespace
    world = read.world(
        context.cluster, where, _KINDS, states=bool(args.pool), pool=args.pool, admin_port=args.admin_port
    )
    pools = [pool for pool in status.view(world) if not args.pool or pool["name"] == args.pool]
    if args.pool:
        context.show(pools, lambda: status.details(pools[0], wide=context.wide, paint=context.paint))
    elif pools or context.form in ("json", "yaml"):
        context.show(
            pools,
            lambda: status.overview(
                pools, wide=context.wide, namespaces=context.namespace is None, paint=context.paint
            ),
        )
    else:
        context.say(f"no pools in {context.namespace or 'any namespace'}")
    return Exit.OK if status.all_ready(pools) else Exit.NO
