"""`kubectl vernal drain POD...`."""

import argparse

from kubectl_vernal import read
from kubectl_vernal.errors import ApiError, Exit
from kubectl_vernal.options import Context, Subparsers, verb


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "drain",
        run,
        "take workers out without losing a request; the pool replaces them",
        "Evicts the pods, as a node's drain does: the PodDisruptionBudget of the pool is kept, requests in flight "
        "run to their end within spec.drain, and the operator makes other pods. To have fewer workers, scale the "
        "pool instead. Exit code 1 if the budget refuses one at the moment.",
        "  kubectl vernal drain qwen-6f1c2a90-1\n"
        "  kubectl vernal drain qwen-6f1c2a90-1 --dry-run\n"
        "  kubectl vernal timeline qwen-6f1c2a90-1      # how far it is",
        forms=(),
    )
    parser.add_argument("pods", metavar="POD", nargs="+", help="name of a worker's pod")
    parser.add_argument("--dry-run", action="store_true", help="ask whether it would be allowed, and change nothing")


def run(context: Context, args: argparse.Namespace) -> int:
    pods = [read.one(context.cluster, "pods", context.home, called) for called in args.pods]
    code = Exit.OK
    for pod in pods:
        called = read.name(pod)
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": called, "namespace": context.home},
            "deleteOptions": {
                "preconditions": {"uid": pod["metadata"]["uid"]},
                **({"dryRun": ["All"]} if args.dry_run else {}),
            },
        }
        try:
            context.cluster.post(read.object_path("pods", pod, "eviction"), body)
        except ApiError as error:
            if error.status != 429:
                raise
            context.say(
                f"pod {called}: not now: its pool's disruption budget allows no more; again when the others are ready"
            )
            code = Exit.NO
            continue
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        context.say(
            f"pod {called}: would drain (dry run)" if args.dry_run else f"pod {called}: drains, for {grace} s at most"
        )
    return code
