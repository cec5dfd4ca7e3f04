"""`python -m shutdown`: how workers end, on a real vLLM."""

import argparse
import sys

from scenarios.kube import KubeError, ScenarioTimeoutError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shutdown",
        description="matrix (the default): every promise about shutdown, on plain `vllm serve` and on a worker of "
        "Vernal, side by side (12 min); exits with 1 if one of Vernal's does not hold. kills: kill -9 of each process "
        "at random moments. storm: scale-downs and rolls on the embedded cluster under constant load. outcomes: every "
        "way in which Kubernetes ends a worker, on the embedded cluster (3 min).",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="matrix | kills | storm | outcomes")
    matrix = commands.add_parser("matrix", help="the table of promises")
    kills = commands.add_parser("kills", help="kill -9 at random moments")
    kills.add_argument("--count", type=int, default=100, help="how many (default 100)")
    for command in (matrix, kills):
        command.add_argument("--work", help="keep checkpoint, model and logs in this directory, and use them again")
    matrix.add_argument("--half", choices=["alone", "vernal"], help="one of the two columns")
    matrix.add_argument("--only", help="scenarios whose names hold this text")
    matrix.add_argument("--markdown", help="write the table to this file, too")
    storm = commands.add_parser("storm", help="scale-downs and rolls under load")
    storm.add_argument("--count", type=int, default=200, help="scale-downs and rolls together (default 200)")
    storm.add_argument("--minutes", type=float, default=120.0, help="stop early after so long (default 120)")
    commands.add_parser("outcomes", help="eviction, node drain, container restart, force deletion, pool deletion")
    for command in (kills, storm):
        command.add_argument("--seed", type=int, default=1, help="of what is drawn (default 1)")
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
