#!/usr/bin/env python3
"""Runs the lanes of `make test` as machines of other speeds would, and prints a table: step by condition.

No test may pass or fail by speed. So the same steps must be green
  alone  one at a time, with nothing beside them,
  busy   all lanes at once, with two busy loops beside them,
  half   all lanes at once, each step under a CPU quota of half a core.

Under the quota (cgroups of version 1 or 2; needs root) is everything that a step starts: make, pytest, compilers,
workers and the processes that CRIU brings back, API servers, and the embedded cluster's own components, which is why a
cluster that runs is stopped before each condition that uses it. Its pods are not children of a step: they have half a
core of their own, all of them together. Not under it are the kernel's threads, such as those that write files back.

Every line of output carries its step's name, as with e2e/lanes.py. A step that fails stops nothing; the ends of what
failed come once more before the table, and the exit status is 1. After Ctrl-C the table shows what was done, and no
cgroup is left.

  make test-anywhere                                                              # all of it, hours
  python3 e2e/anywhere.py --condition half --times 3 --step unit "unit" "lint"    # one step, three times
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from cluster.host import CGROUP as PODS
from lanes import Lanes, Result, make
from quota import Quota, QuotaError

CONDITIONS = {"alone": "ALONE", "busy": "BESIDE BUSY LOOPS", "half": "HALF A CORE EACH"}
"""By name: the table's heading."""
CLUSTER_STEPS = {"cluster-tests", "scenario-tests"}
BUSY_LOOPS = 2
CORES = 0.5
_LOOP = (
    "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process, whatever happens
)
_PODS_SECONDS = 1.0  # the kubelet makes the pods' group when it starts, and anew


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lanes", nargs="+", metavar="LANE", help='steps of make, in one argument: "lint worker-tests"')
    parser.add_argument("--condition", action="append", choices=list(CONDITIONS), help="only this one; may be repeated")
    parser.add_argument("--step", action="append", metavar="STEP", help="only this one; may be repeated")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="how often, in each condition (default 1)")
    given = parser.parse_args(arguments)
    try:
        lanes = select([lane.split() for lane in given.lanes], given.step)
    except ValueError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as after Ctrl-C
    found: dict[str, list[Result]] = {}
    wanted = given.condition or list(CONDITIONS)
    try:
        for condition in wanted:
            found[condition] = []
            for turn in range(1, given.times + 1):
                print(f"=== {CONDITIONS[condition].lower()}, {turn} of {given.times}", flush=True)
                run = Run(condition, lanes)
                found[condition] += run.results()
                if run.interrupted:
                    raise KeyboardInterrupt
    except QuotaError as error:
        print(f"error: no condition `half` on this machine: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("=== interrupted: what was done so far", flush=True)
    steps = [step for lane in lanes for step in lane]
    print(table(steps, found), flush=True)
    return 0 if good(steps, found, wanted, given.times) else 1


def select(lanes: Sequence[Sequence[str]], steps: Sequence[str] | None) -> list[list[str]]:
    """Those of the lanes' steps that are wanted; all, if none is named.

    Raises:
        ValueError: there is no such step; the message lists those that there are.
    """
    known = [step for lane in lanes for step in lane]
    for step in steps or ():
        if step not in known:
            raise ValueError(f"--step {step}: no lane has it; there are {', '.join(known)}")
    chosen = [[step for step in lane if not steps or step in steps] for lane in lanes]
    return [lane for lane in chosen if lane]


def table(steps: Sequence[str], found: dict[str, list[Result]]) -> str:
    """A row a step, a column a condition."""
    head = ["STEP", *(CONDITIONS[condition] for condition in found)]
    rows = [
        [step, *(cell([each for each in results if each.step == step]) for results in found.values())] for step in steps
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                     for row in [head, *rows])  # fmt: skip


def cell(results: Sequence[Result]) -> str:
    """What became of one step in one condition."""
    ran = [each for each in results if each.status is not None]
    if not ran:
        return "not run"
    failed = sum(each.status != 0 for each in ran)
    minutes = sorted(each.minutes for each in ran)
    text = f"{minutes[0]:.1f} min" if len(ran) == 1 else f"{minutes[0]:.1f} to {minutes[-1]:.1f} min"
    if len(ran) == 1:
        return f"{'FAILED' if failed else 'passed'} {text}"
    return f"{f'FAILED {failed} of' if failed else 'passed'} {len(ran)}, {text}"


def good(steps: Sequence[str], found: dict[str, list[Result]], wanted: Sequence[str], times: int) -> bool:
    """Whether every step passed, each time, in each condition that was wanted."""
    passed = [(condition, each.step) for condition, results in found.items() for each in results if each.status == 0]
    return all(passed.count((condition, step)) == times for condition in wanted for step in steps)


class Run:
    """All lanes once, in one condition."""

    def __init__(self, condition: str, lanes: Sequence[Sequence[str]]) -> None:
        self.interrupted = False
        self._condition, self._lanes = condition, lanes

    def results(self) -> list[Result]:
        """Raises: QuotaError."""
        if CLUSTER_STEPS & {step for lane in self._lanes for step in lane}:
            subprocess.run(make("cluster-down"), stdin=subprocess.DEVNULL, check=False)
        if self._condition == "half":
            with Quota(CORES) as quota, _limited_pods(quota):
                return self._run(Lanes(lambda step: quota.enter(step, make(step)), keep_going=True), self._lanes)
        if self._condition == "busy":
            with _busy_loops():
                return self._run(Lanes(keep_going=True), self._lanes)
        return self._run(Lanes(keep_going=True), [[step for lane in self._lanes for step in lane]])

    def _run(self, lanes: Lanes, steps: Sequence[Sequence[str]]) -> list[Result]:
        lanes.run(steps)
        self.interrupted = lanes.interrupted
        return lanes.results


@contextlib.contextmanager
def _busy_loops() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", _LOOP]) for _ in range(BUSY_LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def _limited_pods(quota: Quota) -> Iterator[None]:
    """Keeps the limit on the embedded cluster's pods for as long as the block runs."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(_PODS_SECONDS):
            quota.limit(PODS, quota.cores)
        quota.limit(PODS, None)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
