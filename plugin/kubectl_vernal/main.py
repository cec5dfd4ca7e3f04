"""The command line: verbs, exit codes, and completion."""

import argparse
import os
import sys
from collections.abc import Sequence

from kubectl_vernal import read
from kubectl_vernal.cluster import Cluster
from kubectl_vernal.complete import candidates
from kubectl_vernal.errors import MEANING, Exit, PluginError
from kubectl_vernal.options import context
from kubectl_vernal.verbs import (
    checkpoints,
    completion,
    doctor,
    drain,
    explain,
    freeze,
    logs,
    pause,
    report,
    rollback,
    status,
    thaw,
    timeline,
)

VERBS = (status, checkpoints, explain, timeline, freeze, thaw, drain, rollback, pause, logs, report, doctor, completion)

_EXAMPLES = """\
examples:
  kubectl vernal status -A                       # every pool, and what is wrong with it
  kubectl vernal status qwen                     # one pool: revisions, pods, checkpoint, autoscaling, drains
  kubectl vernal explain qwen-6f1c2a90-0         # why did it start cold? which field differs?
  kubectl vernal thaw --dry-run qwen             # would a new pod thaw, on which nodes?
  kubectl vernal doctor                          # is all there that pools need?

A verb's own examples: kubectl vernal VERB --help"""


def parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {int(code)}  {text}" for code, text in MEANING.items())
    found = argparse.ArgumentParser(
        prog="kubectl vernal",
        description="Looks at pools of vLLM workers (VLLMWorkerPool), explains them, and does what is done by hand.",
        epilog=f"{_EXAMPLES}\n\nexit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = found.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add(commands)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code (`errors.Exit`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["__complete"]:
        return _complete(words[1:])
    args = parser().parse_args(words)
    try:
        if hasattr(args, "offline"):
            return int(args.offline(args))
        return int(args.run(context(args), args))
    except PluginError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.code)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK)
    except KeyboardInterrupt:
        return 130


def _complete(words: Sequence[str]) -> int:
    for candidate in candidates(parser(), words, _names):
        print(candidate)
    print(":4")
    return int(Exit.OK)


def _names(kind: str, namespace: str | None) -> list[str]:
    """Names for completion; none where the cluster does not answer."""
    try:
        cluster = Cluster.connect(None, None)
        kinds = {"pool": read.POOLS, "pod": "pods"}[kind]
        return [read.name(item) for item in read.world(cluster, namespace or cluster.namespace, (kinds,)).of(kinds)]
    except PluginError:
        return []
