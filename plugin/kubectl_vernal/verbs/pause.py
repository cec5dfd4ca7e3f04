"""`kubectl vernal pause POOL`."""

import argparse

from kubectl_vernal import read
from kubectl_vernal.errors import Exit
from kubectl_vernal.options import Context, Subparsers, pool_argument, verb


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "pause",
        run,
        "hold a roll where it is, or let it go on",
        "Sets spec.rollout.paused: no pod is replaced, missing ones are made of the revision before, changes of "
        "scale go on, and the deadline of a new revision does not run.",
        "  kubectl vernal pause qwen\n  kubectl vernal pause qwen --resume",
        forms=(),
    )
    pool_argument(parser)
    parser.add_argument("--resume", action="store_true", help="let it go on")


def run(context: Context, args: argparse.Namespace) -> int:
    pool = read.one(context.cluster, read.POOLS, context.home, args.pool)
    paused = not args.resume
    if bool((pool["spec"].get("rollout") or {}).get("paused")) == paused:
        context.say(f"pool {args.pool}: {'is paused' if paused else 'is not paused'} already")
        return Exit.OK
    context.cluster.patch(read.object_path(read.POOLS, pool), {"spec": {"rollout": {"paused": paused}}})
    context.say(
        f"pool {args.pool}: paused; `kubectl vernal pause {args.pool} --resume` lets it go on"
        if paused
        else f"pool {args.pool}: goes on"
    )
    return Exit.OK
