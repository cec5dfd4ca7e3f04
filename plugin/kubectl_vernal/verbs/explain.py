"""`kubectl vernal explain POD`."""

import argparse

from kubectl_vernal import read
from kubectl_vernal.errors import Exit
from kubectl_vernal.options import Context, Subparsers, pod_argument, verb
from kubectl_vernal.views import explain


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "explain",
        run,
        "why a worker started cold, and which field keeps a checkpoint from fitting",
        "Asks the worker (through the API server: `get` on pods/proxy) and compares what it is with every "
        "checkpoint of its namespace. Exit code 1 if it did not thaw.",
        "  kubectl vernal explain qwen-6f1c2a90-0\n  kubectl vernal explain qwen-6f1c2a90-0 -o yaml",
    )
    pod_argument(parser)


def run(context: Context, args: argparse.Namespace) -> int:
    pod = read.one(context.cluster, "pods", context.home, args.pod)
    world = read.world(
        context.cluster, context.home, ("pods", read.CHECKPOINTS), states=True, pod=args.pod, admin_port=args.admin_port
    )
    found = explain.view(world, pod)
    context.show(found, lambda: explain.text(found, context.paint))
    return Exit.OK if explain.is_thawed(found) else Exit.NO
