"""Flags that verbs share, and what a verb is handed."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from vernal_contract import names

from kubectl_vernal.cluster import Cluster
from kubectl_vernal.output import Paint, dump


class Subparsers(Protocol):
    """What `ArgumentParser.add_subparsers` gives, whose class argparse keeps to itself."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


@dataclass(frozen=True)
class Context:
    """What a verb works with.

    Attributes:
        namespace: the one that was asked for; None for all.
        form: of the output: "", "wide", "json" or "yaml".
    """

    cluster: Cluster
    namespace: str | None
    form: str
    paint: Paint
    out: TextIO

    @property
    def home(self) -> str:
        """The namespace where one object is looked for."""
        return self.namespace or self.cluster.namespace

    @property
    def wide(self) -> bool:
        return self.form == "wide"

    def show(self, value: Any, lines: Callable[[], Iterable[str]]) -> None:
        """Print `value` as JSON or YAML where that was asked for, else the lines."""
        if self.form in ("json", "yaml"):
            print(dump(value, self.form), file=self.out)
        else:
            self.say(*lines())

    def say(self, *lines: str) -> None:
        for line in lines:
            print(line, file=self.out)


Run = Callable[[Context, argparse.Namespace], int]


def verb(
    commands: Subparsers,
    called: str,
    run: Run,
    summary: str,
    description: str,
    examples: str,
    *,
    everywhere: bool = False,
    forms: tuple[str, ...] = ("json", "yaml"),
) -> argparse.ArgumentParser:
    """Add a verb with the flags that all have.

    Args:
        everywhere: it takes -A.
        forms: what -o takes; none for a verb that prints no data.
    """
    parser = commands.add_parser(
        called,
        help=summary,
        description=textwrap.fill(description, 100),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", metavar="NS", help="default: the context's")
    if everywhere:
        where.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig; default: the current one")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, or ~/.kube/config")
    parser.add_argument("--admin-port", type=int, default=names.PORT_ADMIN, metavar="PORT", help=argparse.SUPPRESS)
    if forms:
        parser.add_argument(
            "-o", "--output", choices=forms, default="", metavar="FORM", help=f"{', '.join(forms)}; default: text"
        )
    parser.set_defaults(run=run)
    return parser


def pool_argument(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    parser.add_argument(
        "pool", metavar="POOL", nargs="?" if optional else None, default="", help="name of a VLLMWorkerPool"
    )


def pod_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pod", metavar="POD", help="name of a worker's pod")


def context(args: argparse.Namespace) -> Context:
    """Connect as the flags say. Raises PluginError."""
    cluster = Cluster.connect(args.kubeconfig, args.context)
    everywhere = getattr(args, "all_namespaces", False)
    return Context(
        cluster=cluster,
        namespace=None if everywhere else args.namespace or cluster.namespace,
        form=getattr(args, "output", ""),
        paint=Paint.of(sys.stdout),
        out=sys.stdout,
    )
