"""Manifests that others wrote, put on a cluster with our image in place of theirs, and taken away again."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from common.progress import step
from patience import GUARD_SECONDS
from scenarios.kube import Kube, Object, wait

from autoscalers import Image


@contextmanager
def deployed(
    kube: Kube, resources: Sequence[Path], images: Mapping[str, Image], *,
    config: Mapping[str, Mapping[str, str]] | None = None, hosts: Mapping[str, str] | None = None,
) -> Iterator[None]:  # fmt: skip
    """What `resources` say (files, or folders of kustomize), for as long as the block runs.

    Args:
        images: by the name in the manifests, what stands for it.
        config: texts of ConfigMaps, by their names and keys.
        hosts: addresses by name, for the pods: the embedded cluster has no DNS.
    """
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "kustomization.yaml").write_text(
            json.dumps(kustomization(folder, kube.namespace, resources, images, config or {}, hosts or {}))
        )
        text = kube.run("kustomize", name, "--load-restrictor=LoadRestrictionsNone")
    theirs = kube.elsewhere("")  # each object says which namespace it is in
    try:
        theirs.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        with step(f"waiting for what scales, in namespace {kube.namespace} (2 min)"):
            kube.run("wait", "deployment", "--all", "--for=condition=Available", f"--timeout={GUARD_SECONDS:.0f}s")
            wait("the metrics APIs", lambda: all(map(available, kube.list("apiservice"))))
        yield
    finally:
        with step(f"removing what scales from namespace {kube.namespace} (10 s)"):
            theirs.run("delete", "--ignore-not-found", "-f", "-", stdin=text)


def kustomization(
    folder: Path, namespace: str, resources: Sequence[Path], images: Mapping[str, Image],
    config: Mapping[str, Mapping[str, str]], hosts: Mapping[str, str],
) -> Object:  # fmt: skip
    """As kustomize reads it, in `folder`."""
    container = "/spec/template/spec/containers/0"
    patch = [
        {"op": "add", "path": f"{container}/imagePullPolicy", "value": "IfNotPresent"},
        {"op": "add", "path": "/spec/template/spec/hostAliases", "value": [
            {"ip": address, "hostnames": [name]} for name, address in hosts.items()
        ]},
    ]  # fmt: skip
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(path, folder) for path in resources],
        "images": [{"name": name, "newName": it.name, "newTag": it.tag} for name, it in images.items()],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(patch)}],
        "configMapGenerator": [
            {"name": name, "namespace": namespace, "literals": [f"{key}={text}" for key, text in texts.items()]}
            for name, texts in config.items()
        ],
        "generatorOptions": {"disableNameSuffixHash": True},
    }


def available(service: Object) -> bool:
    """Whether an APIService answers."""
    conditions = service.get("status", {}).get("conditions", [])
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)
