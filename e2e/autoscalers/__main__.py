"""A pool follows its load, by real autoscalers on the embedded cluster: 1 to 3 by the metric, back to 1, to 0, from 0.

PYTHONPATH=e2e .venv/bin/python -m autoscalers          # by its own HPA, then by KEDA
PYTHONPATH=e2e .venv/bin/python -m autoscalers keda
PYTHONPATH=e2e .venv/bin/python -m autoscalers build    # Prometheus, its adapter, KEDA: prints their images' layouts
"""

import argparse
import sys

from cluster.errors import ClusterError
from common.tools import ToolError
from scenarios.kube import KubeError, ScenarioTimeoutError

from autoscalers import KEDA, MONITORING, image


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m autoscalers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="*", metavar="hpa|keda|build", help="which, in this order (default: hpa keda); or build alone"
    )
    what = parser.parse_args().what or ["hpa", "keda"]
    if what != ["build"] and not set(what) <= {"hpa", "keda"}:
        parser.error(f"there is hpa, keda and build, not {' '.join(what)}")
    try:
        if what == ["build"]:
            print(*(image(programs).layout for programs in (MONITORING, KEDA)), sep="\n")
            return 0
        from autoscalers import scenario

        report = scenario.run(what)
    except (KubeError, ScenarioTimeoutError, ToolError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n" + report.render(), flush=True)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
