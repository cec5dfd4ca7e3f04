"""A thawed worker and its clients, good and bad, on a real vLLM."""

import argparse
import sys

_EPILOG = """\
as root:
  make venv criu && export PYTHONPATH=e2e
  .venv/bin/python -m front_door soak --minutes 5        # exits with 1 if a client lost something or something is left
  .venv/bin/python -m front_door first                   # a table; exits with 0 whatever it says: it is no test
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m front_door", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "command",
        nargs="?",
        choices=["soak", "first"],
        default="soak",
        help="soak (the default): every misbehaviour at once, beside eight clients that must lose nothing; "
        "first: the first and the second request of each kind, on a plain start and on a thawed worker",
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak (default 30)")
    parser.add_argument("--work", help="keep checkpoint, model and logs in this directory, and use them again")
    arguments = parser.parse_args()
    from shutdown.workers import workers

    with workers(arguments.work) as made:
        if arguments.command == "first":
            from front_door import first

            print("\n" + first.run(made), flush=True)
            return 0
        from front_door import soak

        report = soak.run(made, arguments.minutes)
        print("\n" + report.render(), flush=True)
        return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
