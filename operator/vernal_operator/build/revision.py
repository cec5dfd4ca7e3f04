"""The ControllerRevision that keeps what pods of a revision are made of, so that they can be made again.

Kept is what a user wrote, not a pod: a pool's pods are made by the builder and within its limits whoever wrote the
ControllerRevision. The worker's configuration is kept as text, because a worker refuses a field that its image does not
know: pods of an old revision are told what their image was told, also by an operator of a later release.
"""

from vernal_contract import config, names

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.meta import Manifest, Owner
from vernal_operator.build.pod import worker_config

KIND = "ControllerRevision"


def revision_name(pool: str, revision: str) -> str:
    """The same for the same content."""
    return f"{pool}-{revision}"


def revision_data(owner: Owner, spec: VLLMWorkerPoolSpec, revision: str, content: str) -> dict[str, str]:
    """What is kept of a revision. `content` is the JSON of all in the spec that a pod is made of.

    Texts, because an object would lose its nulls, which mean something in spec.podTemplate, on its way.
    """
    told = config.encode(worker_config(owner.name, owner.namespace, spec, revision))
    return {"spec": content, "config": told}


def controller_revision(owner: Owner, revision: str, number: int, data: dict[str, str]) -> Manifest:
    """`number` grows with each change of the pool's revision, also when an old one comes back."""
    return {
        "apiVersion": "apps/v1",
        "kind": KIND,
        "metadata": {
            "name": revision_name(owner.name, revision),
            "namespace": owner.namespace,
            "labels": {names.LABEL_POOL: owner.name, names.LABEL_REVISION: revision},
            "ownerReferences": [owner.reference()],
        },
        "data": data,
        "revision": number,
    }
