"""`kubectl vernal timeline POD`."""

import argparse

from vernal_contract import names

from kubectl_vernal import read
from kubectl_vernal.errors import Exit
from kubectl_vernal.options import Context, Subparsers, pod_argument, verb
from kubectl_vernal.views import timeline


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "timeline",
        run,
        "where the seconds of a start, or of a drain, went",
        "Bars for what Kubernetes did, for the phases that the worker timed, and for the budget of a drain.",
        "  kubectl vernal timeline qwen-6f1c2a90-1\n"
        "  kubectl vernal timeline qwen-6f1c2a90-1 -o json | jq '.phases[] | {name, seconds}'",
    )
    pod_argument(parser)


def run(context: Context, args: argparse.Namespace) -> int:
    pod = read.one(context.cluster, "pods", context.home, args.pod)
    world = read.world(
        context.cluster, context.home, ("pods", read.POOLS), states=True, pod=args.pod, admin_port=args.admin_port
    )
    found = timeline.view(world, pod, world.pool(context.home, read.labels(pod).get(names.LABEL_POOL, "")))
    context.show(found, lambda: timeline.text(found, context.paint))
    return Exit.OK
