"""`python -m front_door`: a thawed worker and its clients, good and bad."""

import argparse
import sys

from shutdown.workers import workers


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m front_door",
        description="soak (the default): every misbehaviour at once against one thawed worker, beside eight clients "
        "that must lose nothing; exits with 1 if they do, or if memory or descriptors are left. first: how long the "
        "first request of each kind takes, on a plain start and on a thawed worker.",
        epilog="As root, after `make venv criu`: `PYTHONPATH=e2e .venv/bin/python -m front_door soak --minutes 2`. "
        "`make help` has targets for both.",
    )  # fmt: skip
    parser.add_argument("command", nargs="?", choices=["soak", "first"], default="soak", help="what to run")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak (default 30)")
    parser.add_argument("--work", help="keep checkpoint, model and logs in this directory, and use them again")
    arguments = parser.parse_args()
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
