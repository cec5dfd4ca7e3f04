"""A cluster of a test's own, in a state directory of its own, by the command line that people use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from patience import GUARD_SECONDS, until

from cluster import leftovers
from cluster.layout import PAUSE_IMAGE

#: A pod a node, as far as nodes take pods; those of a revision that goes do not count.
_SPREAD = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "nodeTaintsPolicy": "Honor",
    "matchLabelKeys": ["pod-template-hash"],
    "labelSelector": {"matchLabels": {"app": "web"}},
}
_WEB = [
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "topologySpreadConstraints": [_SPREAD],
                    "containers": [{
                        "name": "web",
                        "image": PAUSE_IMAGE,
                        "args": ["serve", "8080"],
                        "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1},
                        "resources": {"limits": {"memory": "64Mi"}},
                    }],
                },
            },
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    },
]  # fmt: skip


def environment(state: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(Path(__file__).parents[1]), "VERNAL_STATE": str(state)}
    return {key: value for key, value in os.environ.items() if key != "KUBECONFIG"} | own


def cluster(
    state: Path, *arguments: str, stdin: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cluster", *arguments], check=False, capture_output=True, text=True, input=stdin,
        env=environment(state),
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done


#: What programs beside the test have, too, and let go of when they like.
_OTHERS_END = tuple(f"{section}: gone: " for section in ("processes", "mounts", "disks", "cgroups"))


def nothing_left(before: leftovers.Snapshot) -> None:
    """Wait until what comes and goes on a busy machine is gone; what does not go is left."""
    found: list[str] = []

    def clean() -> bool:
        differ = leftovers.differences(before, leftovers.snapshot())
        found[:] = [line for line in differ if not line.startswith(_OTHERS_END)]
        return not found

    until("nothing to be left", clean, more=lambda: "\n".join(found))


def rolled_out(state: Path) -> str:
    """Bring up a Service with two ready pods behind it, on as many nodes as there are; they answer with their
    names. Returns its address."""
    cluster(state, "kubectl", "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": _WEB}))
    cluster(state, "kubectl", "rollout", "status", "deployment/web", f"--timeout={GUARD_SECONDS:.0f}s")
    return cluster(state, "kubectl", "get", "service/web", "-o", "jsonpath={.spec.clusterIP}").stdout


def names(state: Path) -> set[str]:
    return set(cluster(state, "kubectl", "get", "pods", "-l", "app=web", "-o", "name").stdout.split())


def curl(url: str) -> str:
    done = subprocess.run(["curl", "--silent", "--max-time", "60", url], check=False, capture_output=True, text=True)
    return done.stdout.strip()
