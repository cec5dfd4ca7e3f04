"""A pool's life on a real Kubernetes, with a table of what was seen."""

import argparse
import sys
import time
from collections.abc import Callable

from common.progress import duration, say

from scenarios import lifecycle, manifests, prefetched, setup, two_nodes
from scenarios.autoscaling import Autoscaling
from scenarios.bucket_life import BucketLife
from scenarios.client import greedy
from scenarios.kube import Kube, KubeError, ScenarioTimeoutError, die
from scenarios.leader import Operator, installed
from scenarios.lifecycle import Lifecycle
from scenarios.prefetched import Prefetched
from scenarios.report import Report
from scenarios.rolls import SELECTOR, Rolls, meddlers
from scenarios.two_nodes import TwoNodes
from scenarios.watch import Watch

_EPILOG = """\
for example, as root:
  PYTHONPATH=e2e python3 -m scenarios demo
  PYTHONPATH=e2e python3 -m scenarios demo --store s3
  PYTHONPATH=e2e python3 -m scenarios rolls

Without KUBECONFIG a one-node Kubernetes is built and started on this machine (root, Debian 12 or newer). The first run
compiles it and installs vLLM: `make help` says how long that took. With KUBECONFIG set, that cluster is used:
VERNAL_WORKER_IMAGE and VERNAL_OPERATOR_IMAGE name images that it can pull, and VERNAL_STORAGE_CLASS a class of
ReadWriteMany storage, or, for --store s3, VERNAL_BUCKET and the variables of AWS a bucket. VERNAL_LOG names the file
for what apt, pip and buildah say. `make clean-cluster` removes what the demo left running. Exit status 1 if a check
failed.
"""


def run_demo() -> Report:
    """The demo; also what the scenario test runs."""
    return _run("vernal-demo", lambda kube, base, images: Lifecycle(kube, base, images.worker).run())


def run_demo_s3() -> Report:
    """The demo with a bucket and no claim."""
    start, images = _installed()
    with setup.namespace_with_bucket("vernal-demo-s3") as (kube, bucket):
        report = _looked_at(kube, lambda base: BucketLife(kube, base, images.worker, bucket).run())
    return _done(start, report)


def run_rolls() -> Report:
    """What a pool does when it cannot do as it is told."""

    def rolls(kube: Kube, base: str, images: setup.Images) -> Report:
        def ask(pod: str) -> str:
            return greedy(kube.pod_url(base, pod, lifecycle.SERVING_PORT), manifests.MODEL_NAME)

        operator = installed(kube, setup.SYSTEM_NAMESPACE)
        with meddlers(kube, images.worker), Watch(kube, SELECTOR) as watch:
            return Rolls(kube, images.worker, watch, operator, ask).run()

    return _run("vernal-rolls", rolls)


def run_autoscaling() -> Report:
    """To zero and back."""
    return _run(
        "vernal-autoscaling", lambda kube, _, images: Autoscaling(kube, images.worker).run(), "waker.enabled=true"
    )


def run_two_nodes() -> Report:
    """Over two nodes, each of which fills its cache itself; then with prefetch. What is well leaves a cluster of one
    node."""

    def scenario(kube: Kube, base: str, images: setup.Images) -> Report:
        return TwoNodes(kube, base, images.worker).run()

    report = _over_two_nodes("vernal-two-nodes", scenario, *_caches(prefetched.SIZE))
    if report.ok:
        report.add(_prefetch())
    return _one_node(report)


def run_prefetch() -> Report:
    """The second half of `run_two_nodes`."""
    return _one_node(_prefetch())


def _prefetch() -> Report:
    def values(size: str) -> tuple[str, ...]:
        return *_caches(size), "nodeCache.prefetch.nodes=2"

    def scenario(kube: Kube, base: str, images: setup.Images) -> Report:
        def chart(size: str) -> Operator:
            setup.install(images, *values(size))
            return installed(kube, setup.SYSTEM_NAMESPACE)

        with Watch(kube, prefetched.FETCHES) as watch:
            return Prefetched(kube, base, images.worker, watch, chart).run()

    return _over_two_nodes("vernal-prefetch", scenario, *values(prefetched.SIZE))


def _caches(size: str) -> tuple[str, str]:
    return f"nodeCache.directory={two_nodes.CACHE}", f"nodeCache.size={size}"


def _over_two_nodes(namespace: str, scenario: Callable[[Kube, str, setup.Images], Report], *values: str) -> Report:
    if not setup.embedded():
        die("this takes nodes away from under their pods, which is for the embedded cluster: unset KUBECONFIG")

    def then_open(kube: Kube, base: str, images: setup.Images) -> Report:
        try:
            return scenario(kube, base, images)
        finally:
            two_nodes.take_pods(kube, two_nodes.FIRST, two_nodes.SECOND)

    return _run(namespace, then_open, *values, nodes=2)


def _one_node(report: Report) -> Report:
    if report.ok:
        setup.up(nodes=1)
    return report


def _run(
    namespace: str, scenario: Callable[[Kube, str, setup.Images], Report], *values: str, nodes: int | None = None
) -> Report:
    """`values`: of the chart, as Helm's --set takes them. `nodes`: of the embedded cluster."""
    start, images = _installed(*values, nodes=nodes)
    with setup.namespace(namespace) as kube:
        setup.prepare_model(kube, images)
        report = _looked_at(kube, lambda base: scenario(kube, base, images))
    return _done(start, report)


def _installed(*values: str, nodes: int | None = None) -> tuple[float, setup.Images]:
    """When it began, and what is on the cluster."""
    start = time.monotonic()
    images = setup.cluster_with_images(nodes)
    setup.install(images, *values)
    return start, images


def _looked_at(kube: Kube, scenario: Callable[[str], Report]) -> Report:
    """`scenario` is given the base URL of a way to the API server."""
    with kube.proxy() as base:
        try:
            return scenario(base)
        except (KubeError, ScenarioTimeoutError):
            _explain(kube)
            raise


def _done(start: float, report: Report) -> Report:
    say(f"done in {duration(time.monotonic() - start)}")
    return report


SCENARIOS = {
    ("demo", "claim"): run_demo, ("demo", "s3"): run_demo_s3,
    ("rolls", "claim"): run_rolls, ("autoscaling", "claim"): run_autoscaling, ("two-nodes", "claim"): run_two_nodes,
    ("prefetch", "claim"): run_prefetch,
}  # fmt: skip


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
        choices=sorted({name for name, _ in SCENARIOS}),
        help="demo: freeze, thaw, scale, drain, a corrupted checkpoint; rolls: a broken image that rolls back, a "
        "quota, foreign conditions, a sidecar injector; autoscaling: to zero and back; two-nodes: one freezes, the "
        "other thaws, is drained, and is lost; then prefetch: the other has the checkpoint before a pod is there",
    )
    parser.add_argument(
        "--store",
        choices=("claim", "s3"),
        default="claim",
        help="of the demo: where checkpoints are, on a shared (RWX) claim or in a bucket of a real S3 server, with no "
        "claim at all (default: %(default)s)",
    )
    arguments = parser.parse_args()
    run = SCENARIOS.get((arguments.scenario, arguments.store))
    if run is None:
        parser.error(f"argument --store: {arguments.scenario} is for claims only")
    try:
        report = run()
    except (KubeError, ScenarioTimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n" + report.render())
    return 0 if report.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
