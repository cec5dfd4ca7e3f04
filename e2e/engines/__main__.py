"""Each kind of engine: freeze a worker, thaw another from its checkpoint, ask both the same, compare the answers."""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

_EPILOG = """\
as root:
  make venv criu && export PYTHONPATH=e2e:$(python3 e2e/images/beside.py media)  # for images and sound, on a CPU
  .venv/bin/python -m engines                                  # all rows: make engines
  .venv/bin/python -m engines --list
  .venv/bin/python -m engines --row "static LoRA" --row n-gram # these two
  make engines ENGINES='--row EAGLE --work /var/tmp/engines'   # the workers' logs stay there

Texts and token ids must be equal, log probabilities and vectors within 1e-4, accepted drafts as many. A row says "vLLM
cannot", with vLLM's own sentence, where plain vLLM cannot start or answer either; that fails nothing. Exit status 1 if
a row fails. docs/engines.md has the table as it was seen.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engines", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--row", action="append", metavar="NAME", help="only the row of this name; may be repeated")
    parser.add_argument("--list", action="store_true", help="list the rows, and do nothing")
    parser.add_argument(
        "--device", choices=["cpu", "gpu"], help="what vLLM runs on (default: gpu if this machine has an NVIDIA one)"
    )
    parser.add_argument("--work", type=Path, help="keep the logs in this directory (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep models and checkpoints there, too: a gigabyte a row")
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args()
    from engines.rows import ROWS

    known = {row.name: row for row in ROWS}
    if unknown := sorted(set(arguments.row or ()) - set(known)):
        parser.error(f"there is no row {', '.join(map(repr, unknown))}; --list shows them")
    rows = [known[name] for name in arguments.row] if arguments.row else list(ROWS)
    if arguments.list:
        for row in rows:
            print(f"{row.name:32} {'+'.join(row.devices):8} {len(row.questions):3} questions, model {row.model}")
        return 0
    from engines import table
    from engines.run import run

    device = arguments.device or _device()
    with contextlib.ExitStack() as stack:
        work = arguments.work
        if work is None:
            place = "/var/tmp" if device == "gpu" else None  # what is compiled there is a volume; /tmp is a pod's own
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vernal-engines-", dir=place)))
        results = run(rows, device, work.absolute(), keep=arguments.keep)
    print("\n" + table.markdown(results) + "\n\n" + table.summary(results), flush=True)
    if arguments.markdown:
        arguments.markdown.write_text(table.markdown(results) + "\n")
    return 0 if all(result.ok for result in results) else 1


def _device() -> str:
    return "gpu" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"


if __name__ == "__main__":
    sys.exit(main())
