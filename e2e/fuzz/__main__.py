"""Run a target's tests with new examples for minutes, where `make test` does it for moments."""

import argparse
import sys

from fuzz import targets

_EPILOG = """\
as in:
  make fuzz                                              # ten minutes of each target
  make fuzz FUZZ="--target manifest --minutes 1"
  make fuzz FUZZ="--target manifest --seed 17 --rounds 1"   # the round that failed, as it says
  python -m fuzz --help
"""


def main() -> int:
    known = "; ".join(f"{name}: {what}" for name, (_, what) in targets.TARGETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--target",
        action="append",
        choices=sorted(targets.TARGETS),
        metavar="TARGET",
        help=f"{known}. All of them by default",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target (default 10)")
    parser.add_argument("--seed", type=int, help="of the first round (default: another one each time)")
    parser.add_argument("--rounds", type=int, help="of each test, instead of minutes")
    parser.add_argument("--test", help="only the test of this name")
    arguments = parser.parse_args()
    from fuzz.run import run

    return run(
        arguments.target or list(targets.TARGETS), arguments.minutes, arguments.seed, arguments.rounds, arguments.test
    )


if __name__ == "__main__":
    sys.exit(main())
