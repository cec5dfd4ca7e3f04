"""How workers end, on a real vLLM."""

import argparse
import sys

from scenarios.kube import KubeError, ScenarioTimeoutError

_EPILOG = """\
first use, as root (`make help` says how long each took):
  make venv criu && export PYTHONPATH=e2e
  .venv/bin/python -m shutdown matrix --half vernal      # Vernal's column of the table in docs/shutdown.md
  .venv/bin/python -m shutdown kills --count 10 --seed 7 # the same kills again, given the same seed
  .venv/bin/python -m shutdown outcomes                  # brings the embedded cluster up, if need be

Exit status 1 if one of Vernal's promises does not hold. docs/shutdown.md has what was found.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shutdown", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help="matrix if none is given")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")

    matrix = command("matrix", "every promise, vLLM alone and a worker side by side")
    kills = command("kills", "kill -9 of each of a worker's processes at random moments")
    kills.add_argument("--count", type=int, default=100, help="how many (default 100)")
    for one in (matrix, kills):
        one.add_argument("--work", help="keep checkpoint, model and logs in this directory, and use them again")
    matrix.add_argument("--half", choices=["alone", "vernal"], help="one of the two columns")
    matrix.add_argument("--only", help="scenarios whose names hold this text")
    matrix.add_argument("--markdown", help="write the table to this file, too")
    storm = command("storm", "scale-downs and rolls on the embedded cluster, under constant load")
    storm.add_argument("--count", type=int, default=200, help="scale-downs and rolls together (default 200)")
    storm.add_argument("--minutes", type=float, default=120.0, help="stop early after so long (default 120)")
    command(
        "outcomes", "on the embedded cluster: eviction, node drain, container restart, force deletion, pool deletion"
    )
    for one in (kills, storm):
        one.add_argument("--seed", type=int, default=1, help="of what is drawn (default 1)")
    arguments = parser.parse_args(sys.argv[1:] or ["matrix"])
    try:
        return _run(arguments)
    except (KubeError, ScenarioTimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "storm":
        from shutdown import storm

        outcome = storm.run(arguments.count, arguments.seed, arguments.minutes * 60)
        print("\n" + outcome.render(), flush=True)
        return 0 if outcome.ok else 1
    if arguments.command == "outcomes":
        from shutdown import outcomes

        report = outcomes.run()
        print("\n" + report.render(), flush=True)
        return 0 if report.ok else 1
    from shutdown import matrix

    if arguments.command == "kills":
        return matrix.run_kills(arguments.work, arguments.count, arguments.seed)
    return matrix.run(arguments.work, arguments.half, arguments.only, arguments.markdown)


if __name__ == "__main__":
    sys.exit(main())
