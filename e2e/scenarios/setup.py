"""A cluster with Vernal on it: the embedded one, or the one of KUBECONFIG."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from cluster.build import NEWEST
from cluster.layout import state_dir
from common.progress import step
from common.tools import log_file
from patience import GUARD_SECONDS

from scenarios import buckets, manifests
from scenarios.buckets import Bucket
from scenarios.kube import Kube, die, wait
from scenarios.lifecycle import make_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL_SCRIPT = ROOT / "e2e" / "models" / "tiny.py"
SYSTEM_NAMESPACE = "vernal-system"
RELEASE = "vernal"
_CLUSTER = ["env", f"PYTHONPATH={ROOT / 'e2e'}", sys.executable, "-m", "cluster"]
KUBECTL = [*_CLUSTER, "kubectl"]


@dataclass(frozen=True)
class Images:
    worker: str
    operator: str


def _run(*command: str, capture: bool = False) -> str:
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE if capture else None, check=False)
    if done.returncode != 0:
        die(f"`{' '.join(command)}` failed with status {done.returncode}; its own message is above")
    return (done.stdout or "").strip()


def embedded() -> bool:
    return not os.environ.get("KUBECONFIG")


def cluster_with_images(nodes: int | None = None) -> Images:
    """Bring the cluster up and see that the images are on it. The first time compiles and installs, later ones take
    seconds. `nodes`: of the embedded cluster."""
    if not embedded():
        worker, operator = os.environ.get("VERNAL_WORKER_IMAGE", ""), os.environ.get("VERNAL_OPERATOR_IMAGE", "")
        if not (worker and operator):
            die("with KUBECONFIG set, VERNAL_WORKER_IMAGE and VERNAL_OPERATOR_IMAGE must name images that it can pull")
        _run(*_CLUSTER, "up")
        return Images(worker, operator)
    log_file()  # one for all that follows
    layouts = [_run(sys.executable, "e2e/images/build.py", kind, capture=True) for kind in ("worker-cpu", "operator")]
    up(nodes)
    worker, operator = (_run(*_CLUSTER, "load-image", layout, capture=True) for layout in layouts)
    return Images(worker=worker, operator=operator)


def up(nodes: int | None = None) -> None:
    """Start or repair the cluster, the embedded one with so many nodes."""
    _run(*_CLUSTER, "up", *(() if nodes is None else (f"--nodes={nodes}",)))


def node(action: str, name: str) -> None:
    """`stop` takes a node of the embedded cluster away as a power cut does, `start` brings it back."""
    _run(*_CLUSTER, "node", action, name)


def install(images: Images, *values: str) -> None:
    """Install or upgrade the chart, with more of its values, and wait for the operator."""
    releases = json.loads(
        _run(*_CLUSTER, "helm", "list", "--namespace", SYSTEM_NAMESPACE, "-a", "-o", "json", capture=True)
    )
    if any(release["status"].startswith("pending") for release in releases):
        with step("removing an earlier installation that was interrupted: Helm would refuse to go on (10 s)"):
            _run(*_CLUSTER, "helm", "uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE, "--wait", capture=True)
    with step("installing the chart with Helm, and waiting for the operator (10 s)"):
        _run(*_CLUSTER, "helm", "upgrade", "--install", RELEASE, "charts/vernal", "--namespace", SYSTEM_NAMESPACE,
             "--create-namespace", *_values(images, values),
             "--wait", "--timeout", f"{GUARD_SECONDS:.0f}s", capture=True)  # fmt: skip
        _sweep()


def _sweep() -> None:
    """A node that went down with its power leaves pods of ours that have ended: they keep the labels, and have neither
    an address nor a log."""
    for phase in ("Succeeded", "Failed"):
        _run(*KUBECTL, "delete", "pods", "--namespace", SYSTEM_NAMESPACE, f"--field-selector=status.phase={phase}",
             capture=True)  # fmt: skip


def rendered(images: Images, *values: str) -> str:
    """What `install` with these values would put on the embedded cluster, as YAML."""
    return _run(*_CLUSTER, "helm", "template", RELEASE, "charts/vernal", "--namespace", SYSTEM_NAMESPACE,
                f"--kube-version={NEWEST}", *_values(images, values), capture=True)  # fmt: skip


def _values(images: Images, values: Sequence[str]) -> list[str]:
    repository, _, tag = images.operator.rpartition(":")
    return [f"--set={value}" for value in (f"image.repository={repository}", f"image.tag={tag}", *values)]


def load_image(layout: pathlib.Path) -> None:
    """An OCI layout, to the embedded cluster's node."""
    _run(*_CLUSTER, "load-image", str(layout), capture=True)


@contextmanager
def namespace(name: str) -> Iterator[Kube]:
    """A fresh namespace with the shared claim in it; it goes when the block ends, pools first, so that their
    finalizers are answered while the operator is there."""
    kube = Kube(KUBECTL, name)
    volume = f"{name}-store"
    directory = state_dir() / "volumes" / name
    _remove(kube, volume)
    kube.apply(manifests.namespace(name))
    if embedded():
        kube.apply(manifests.volume(volume, str(directory)), manifests.claim(volume, None))
    else:
        kube.apply(manifests.claim(None, os.environ.get("VERNAL_STORAGE_CLASS")))
    try:
        yield kube
    finally:
        _remove(kube, volume)
        if embedded():
            _run("rm", "-rf", "--", str(directory))


@contextmanager
def namespace_with_bucket(name: str) -> Iterator[tuple[Kube, Bucket]]:
    """A fresh namespace with no claim, with the credentials of a bucket and with what makes the model; it goes when the
    block ends."""
    kube = Kube(KUBECTL, name)
    _remove(kube)
    with buckets.embedded(name) if embedded() else nullcontext(buckets.of_environment(name)) as bucket:
        kube.apply(manifests.namespace(name), manifests.secret(bucket), manifests.model_script(MODEL_SCRIPT))
        try:
            yield kube, bucket
        finally:
            _remove(kube)


def _remove(kube: Kube, volume: str = "") -> None:
    """Without `volume` checkpoints are not waited for: the bucket that an earlier run named may be gone, and without a
    namespace nothing holds them."""
    if kube.get("namespace", kube.namespace) is None:
        return
    with step(f"removing namespace {kube.namespace} (15 s)"):
        kube.run("delete", "vwp", "--all", "--ignore-not-found")
        kube.run("delete", "vck", "--all", "--ignore-not-found", f"--wait={'true' if volume else 'false'}")
        kube.run("delete", "namespace", kube.namespace)
        wait("the namespace to be gone", lambda: kube.get("namespace", kube.namespace) is None)
    if volume and embedded():
        kube.delete("persistentvolume", volume)


def prepare_model(kube: Kube, images: Images) -> None:
    make_model(kube, images.worker, MODEL_SCRIPT)
