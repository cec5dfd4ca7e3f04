"""`kubectl vernal checkpoints`."""

import argparse

from kubectl_vernal import read
from kubectl_vernal.errors import Exit
from kubectl_vernal.options import Context, Subparsers, verb
from kubectl_vernal.views import checkpoints


def add(commands: Subparsers) -> None:
    verb(
        commands,
        "checkpoints",
        run,
        "checkpoints: state, size, who uses them, how often they thawed and failed",
        "Lists VLLMCheckpoints, and says of each that is not Ready why.",
        "  kubectl vernal checkpoints\n  kubectl vernal checkpoints -A -o wide    # with claim, host and identity",
        everywhere=True,
        forms=("wide", "json", "yaml"),
    )


def run(context: Context, args: argparse.Namespace) -> int:
    rows = checkpoints.view(read.world(context.cluster, context.namespace, (read.CHECKPOINTS,)))
    if rows or context.form in ("json", "yaml"):
        context.show(
            rows,
            lambda: checkpoints.text(
                rows, wide=context.wide, namespaces=context.namespace is None, paint=context.paint
            ),
        )
    else:
        context.say(f"no checkpoints in {context.namespace or 'any namespace'}")
    return Exit.OK
