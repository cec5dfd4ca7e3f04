"""`make kv-recovery`: KV load failures on a real vLLM, on the CPU."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from kv_recovery import recovery, report
from kv_recovery.child import EngineFailedError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kv_recovery",
        description="Prefill saves KV blocks to a store; decode loads them while storage fails in every known way, "
        "synchronously and asynchronously. Every answer must equal the baseline. Prints a table; exits with 1 and a "
        "unified diff if an answer differs. Takes 3 to 6 minutes on 2 cores and needs no GPU.",
    )
    parser.add_argument("--work", type=Path, help="keep model, store and the engines' log in this directory")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="thaw-kv-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        try:
            verdicts = recovery.run(recovery.cpu_bench(work, lambda line: print(line, flush=True)))
        except EngineFailedError as error:
            print(error, file=sys.stderr)
            return 1
    bad = [verdict for verdict in verdicts if verdict.problems]
    for verdict in bad:
        print("\n".join(report.difference(verdict)))
    print(f"{len(verdicts) - len(bad)} of {len(verdicts)} cases as they must be, in {time.monotonic() - start:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
