"""`make kv-recovery`: KV load failures on a real vLLM."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kv_recovery import gpu, recovery, report
from kv_recovery.child import EngineFailedError

_GPU_PARTS = ("recovery", "ttft", "load", "saving")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kv_recovery",
        description="Prefill saves KV blocks to a store; decode loads them while storage fails in every known way, "
        "synchronously and asynchronously. Every answer must equal the baseline. Prints a table; exits with 1 and a "
        "unified diff if an answer differs. Takes 3 to 6 minutes on 2 cores and needs no GPU.",
        epilog="Examples: `PYTHONPATH=e2e .venv/bin/python -m kv_recovery`, which is `make kv-recovery`; on a GPU "
        "machine `e2e/kv_recovery/gpu.sh --only ttft`.",
    )
    parser.add_argument("--work", type=Path, help="keep models, stores and the engines' logs in this directory")
    on_gpu = parser.add_argument_group("on one NVIDIA GPU with 80 GB or more, 16 cores and vLLM 0.26 or newer")
    on_gpu.add_argument(
        "--gpu",
        action="store_true",
        help="the same on a GPU, then time to first token with and without the store, and what saving costs, of "
        "engines that decode by CUDA graphs (without torch.compile)",
    )
    on_gpu.add_argument(
        "--only",
        choices=_GPU_PARTS,
        help="one part: the faults; time to first token of an engine that is idle; the same with other requests in "
        "flight; throughput with and without saving",
    )
    on_gpu.add_argument(
        "--tokens", type=int, default=16384, help="of the prompt for time to first token (default: 16384)"
    )
    on_gpu.add_argument("--in-flight", type=int, default=64, help="other requests for `--only load` (default: 64)")
    arguments = parser.parse_args()
    if arguments.only and not arguments.gpu:
        parser.error("--only goes with --gpu")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vernal-kv-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        try:
            good = _gpu(work, arguments) if arguments.gpu else _cpu(work)
        except EngineFailedError as error:
            print(error, file=sys.stderr)
            return 1
    _say(f"{'passed' if good else 'FAILED'} in {time.monotonic() - start:.0f} s")
    return 0 if good else 1


def _cpu(work: Path) -> bool:
    return _conclude(recovery.run(recovery.cpu_bench(work, _say)))


def _gpu(work: Path, arguments: argparse.Namespace) -> bool:
    """What is measured is judged by nobody here but for this: the store must be of use."""
    parts: dict[str, Callable[[], bool]] = {
        "recovery": lambda: _conclude(gpu.recover(work, _say)),
        "ttft": lambda: gpu.first_token(work, _say, arguments.tokens) > 1,
        "load": lambda: gpu.first_token(work, _say, arguments.tokens, arguments.in_flight) > 1,
        "saving": lambda: gpu.cost_of_saving(work, _say) > 0,
    }
    good = [parts[name]() for name in _GPU_PARTS if arguments.only in (None, name)]
    return all(good)


def _conclude(verdicts: list[report.Verdict]) -> bool:
    bad = [verdict for verdict in verdicts if verdict.problems]
    for verdict in bad:
        _say("\n".join(report.difference(verdict)))
    _say(f"{len(verdicts) - len(bad)} of {len(verdicts)} cases as they must be")
    return not bad


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
