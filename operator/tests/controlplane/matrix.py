"""The fault matrix: real operators, a real etcd and kube-apiserver, a proxy between them, and every class of faults.

Each run is a namespace with an operator of its own, and a seed says which faults it meets. It is green if in the end
everything is as without faults, nothing is called any more, and what must hold at every moment held at every event.
Every failure is printed with the command that repeats just that run. Exit status 1 if a run is red.

  make fault-matrix                                                   # all of it
  make fault-matrix FAULTS="--class error-409 --seed 7 --runs 1"      # one run
  make fault-matrix FAULTS="--list"                                   # the classes
"""

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cluster.apiserver import ApiServer
from cluster.errors import ClusterError
from controlplane.faults import CLASSES, Bench, FaultClass
from controlplane.older import NoOlderError, commit_before, older, older_class
from controlplane.scenarios import PARALLEL
from controlplane.second import TWO
from controlplane.server import prepared
from controlplane.walks import WALKS

OTHER_RELEASE = "other-release"
_COMMAND = 'make fault-matrix FAULTS="--class {} --seed {} --runs 1{}"'


@dataclass(frozen=True)
class Result:
    """What became of one run. `error` is None if it is green; `faults` were injected."""

    of: FaultClass
    seed: int
    seconds: float
    faults: int = 0
    error: str | None = None


@dataclass
class Matrix:
    """Runs of classes. `say` is told of each that is red, and now and then how far it is."""

    bench: Bench
    say: Callable[[str], None] = print
    more: str = ""  # arguments that repeat what this matrix does
    results: list[Result] = field(default_factory=list)

    def run(self, jobs: Sequence[tuple[FaultClass, int]]) -> list[Result]:
        """Those of the jobs that are red."""
        told = time.monotonic()
        with ThreadPoolExecutor(PARALLEL) as threads:
            try:
                for done in as_completed([threads.submit(self._one, *job) for job in jobs]):
                    result = done.result()
                    self.results.append(result)
                    if result.error is not None:
                        self.say(self.failure(result))
                    if time.monotonic() - told > 30:
                        told = time.monotonic()
                        self.say(f"{len(self.results)} of {len(jobs)} runs")
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self.bench.server.node.give_up("interrupted")
                raise
        return [result for result in self.results if result.error is not None]

    def _one(self, of: FaultClass, seed: int) -> Result:
        began = time.monotonic()
        try:
            faults = of.run(self.bench, f"{of.name}-{seed}", seed)
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else repr(error)
            return Result(of, seed, time.monotonic() - began, error=text)
        return Result(of, seed, time.monotonic() - began, faults)

    def failure(self, result: Result) -> str:
        what = f"RED {result.of.name}, seed {result.seed} ({result.of.told(self.bench, result.seed)})"
        log = self.bench.server.directory / f"{result.of.name}-{result.seed}.log"
        again = _COMMAND.format(result.of.name, result.seed, self.more)
        return f"{what}\n{result.error}\n  log: {log}\n  again: {again}"

    def table(self) -> str:
        """A row a class."""
        head = ["CLASS", "RUNS", "RED", "FAULTS", "SECONDS A RUN", "WHAT"]
        rows = []
        for of in dict.fromkeys(result.of for result in self.results):
            these = [result for result in self.results if result.of is of]
            seconds = sorted(result.seconds for result in these)
            red = sum(result.error is not None for result in these)
            rows.append([
                of.name, str(len(these)), str(red or "-"), str(sum(result.faults for result in these)),
                f"{seconds[len(seconds) // 2]:.0f} (up to {seconds[-1]:.0f})", of.text,
            ])  # fmt: skip
        met = sum(result.faults > 0 or result.error is not None for result in self.results)
        red = sum(result.error is not None for result in self.results)
        total = sum(result.faults for result in self.results)
        rows.append(["all", str(len(self.results)), str(red or "-"), str(total), "", f"{met} runs met a fault"])
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in [head, *rows]
        )


def jobs(
    bench: Bench, classes: Iterable[FaultClass], seed: int | None, runs: int | None
) -> list[tuple[FaultClass, int]]:
    """Those runs of each class that are wanted; by default all of them."""
    first = seed or 0
    one = 1 if seed is not None else None
    return [(of, number) for of in classes for number in range(first, first + (runs or one or of.runs(bench)))]


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if given.list:
        for of in (*CLASSES, TWO, WALKS):
            print(f"{of.name:18}{of.text}")
        print(f"{OTHER_RELEASE:18}operators of two releases in turn")
        return 0
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="vernal-faults-"))
    problems: list[str] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as after Ctrl-C
    threading.excepthook = lambda args: problems.append(f"{args.thread and args.thread.name}: {args.exc_value!r}")
    try:
        with ExitStack() as stack:
            api = stack.enter_context(ApiServer())
            bench = Bench(stack.enter_context(prepared(api, directory)), patience=given.patience)
            classes = {of.name: of for of in (WALKS, TWO, *CLASSES)}
            skipped = ""
            if not given.classes or OTHER_RELEASE in given.classes:
                try:
                    commit = commit_before(given.older)
                    found = older_class(stack.enter_context(older(commit, bench.server)))
                    classes = {found.name: found, **classes}
                except NoOlderError as error:
                    skipped = f"skipped: {OTHER_RELEASE}: {error}"
            unknown = [name for name in given.classes or () if name not in classes and not skipped]
            if unknown:
                print(f"error: no class {', '.join(unknown)}; there are {', '.join(classes)}", file=sys.stderr)
                return 2
            print(f"logs: {directory}; {PARALLEL} runs at a time", flush=True)
            bench.prepare("reference")
            more = f" --older {given.older}" if given.older else ""
            matrix = Matrix(bench, lambda text: print(text, flush=True), more)
            wanted = [of for name, of in classes.items() if not given.classes or name in given.classes]
            red = matrix.run(jobs(bench, wanted, given.seed, given.runs))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print("\n" + matrix.table())
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    if skipped:
        print(skipped)
    for problem, times in Counter(problems).items():
        print(f"a thread of the tests ended ({times} times): {problem}")
    for result in red:
        print(_COMMAND.format(result.of.name, result.seed, more))
    return 1 if red or problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m controlplane.matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--class", action="append", dest="classes", metavar="X", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, metavar="S", help="the first seed (default 0; alone, that one run)")
    parser.add_argument("--runs", type=int, metavar="N", help="how many seeds of each class (default: all)")
    parser.add_argument("--older", metavar="COMMIT", help="the other release (default: the last with another operator)")
    parser.add_argument(
        "--patience", type=float, default=900.0, metavar="S",
        help="bound of each wait; only a run that hangs meets it (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the classes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
