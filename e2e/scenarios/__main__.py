"""`python -m scenarios demo`: a pool's whole life on a real Kubernetes, with a table of what was seen."""

import argparse
import sys
import time

from common.progress import duration, say

from scenarios import setup
from scenarios.autoscaling import Autoscaling
from scenarios.kube import Kube, KubeError, ScenarioTimeoutError
from scenarios.lifecycle import Lifecycle
from scenarios.report import Report

_EPILOG = """\
Without KUBECONFIG a one-node Kubernetes is built and started on this machine (root, Debian 12 or newer). The first run
compiles it and installs vLLM: `make help` says how long that took. With KUBECONFIG set, that cluster is used:
VERNAL_WORKER_IMAGE and VERNAL_OPERATOR_IMAGE name images that it can pull, and VERNAL_STORAGE_CLASS a class of
ReadWriteMany storage. VERNAL_LOG names the file for what apt, pip and buildah say. `make clean-cluster` removes what
the demo left running. Exit status 1 if a check failed.
"""


def run_demo() -> Report:
    """The demo; also what the scenario test runs."""
    start = time.monotonic()
    images = setup.cluster_with_images()
    setup.install(images)
    with setup.namespace("vernal-demo") as kube:
        setup.prepare_model(kube, images)
        with kube.proxy() as base:
            try:
                report = Lifecycle(kube, base, images.worker).run()
            except (KubeError, ScenarioTimeoutError):
                _explain(kube)
                raise
    say(f"done in {duration(time.monotonic() - start)}")
    return report


def run_autoscaling() -> Report:
    """To zero and back, on the embedded cluster."""
    images = setup.cluster_with_images()
    setup.install(images, "waker.enabled=true")
    with setup.namespace("vernal-autoscaling") as kube:
        setup.prepare_model(kube, images)
        try:
            return Autoscaling(kube, images.worker).run()
        except (KubeError, ScenarioTimeoutError):
            _explain(kube)
            raise


SCENARIOS = {"demo": run_demo, "autoscaling": run_autoscaling}


def _explain(kube: Kube) -> None:
    """What an engineer would look at first, printed before the failure."""
    for args in (("get", "vwp,vck,pods", "-o", "wide"), ("get", "events", "--sort-by=.lastTimestamp"),
                 ("describe", "vwp"), ("logs", "--selector=vernal.dev/pool", "--tail=40", "--prefix")):  # fmt: skip
        say(f"$ kubectl {' '.join(args)}")
        try:
            print(kube.run(*args)[-6000:], flush=True)
        except KubeError as error:
            print(error, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scenarios",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scenario",
        choices=sorted(SCENARIOS),
        help="demo: freeze, thaw, scale, drain, a corrupted checkpoint; autoscaling: to zero and back",
    )
    scenario = parser.parse_args().scenario
    try:
        report = SCENARIOS[scenario]()
    except (KubeError, ScenarioTimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n" + report.render())
    return 0 if report.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
