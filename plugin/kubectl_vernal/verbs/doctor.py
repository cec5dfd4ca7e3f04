"""`kubectl vernal doctor`."""

import argparse
from dataclasses import asdict

from kubectl_vernal import read
from kubectl_vernal.cluster import path
from kubectl_vernal.errors import ApiError, Exit
from kubectl_vernal.options import Context, Subparsers, verb
from kubectl_vernal.views import doctor

_CLUSTER = ("customresourcedefinitions", "leases", "nodes")
_NAMESPACE = (read.POOLS, "persistentvolumeclaims")


def add(commands: Subparsers) -> None:
    verb(
        commands,
        "doctor",
        run,
        "is all there that pools need: CRDs, a live operator, your rights, storage, nodes",
        "Looks, and changes nothing. Exit code 1 if a check is bad. What a node's kernel and driver can do only a "
        "worker on it finds out: `kubectl exec POD -c worker -- vernal-worker doctor`.",
        "  kubectl vernal doctor\n  kubectl vernal doctor -A -o json | jq '.[] | select(.outcome == \"bad\")'",
        everywhere=True,
    )


def run(context: Context, args: argparse.Namespace) -> int:
    version = context.cluster.get("/version")
    objects, unread = dict[str, list[dict[str, object]]](), dict[str, str]()
    now = 0.0
    for kinds, where in ((_CLUSTER, None), (_NAMESPACE, context.namespace)):
        for kind in kinds:
            try:
                part = read.world(context.cluster, where, (kind,))
                objects |= part.objects
                now = now or part.now
            except ApiError as error:
                if error.status not in (403, 404):
                    raise
                unread[kind] = str(error)
    world = read.World(now, objects, unread=unread)
    checks = doctor.view(world, version, _rights(context))
    context.show([asdict(check) for check in checks], lambda: doctor.text(checks, context.paint))
    return Exit.OK if doctor.is_well(checks) else Exit.NO


def _rights(context: Context) -> doctor.Rights:
    """Ask the API server what this user may do (SelfSubjectAccessReview), right by right."""
    where = context.namespace or ""
    address = path("selfsubjectaccessreviews", group="authorization.k8s.io/v1")
    allowed = {}
    for verb_, group, resource, _ in doctor.RIGHTS:
        plural, _, subresource = resource.partition("/")
        asked = {"verb": verb_, "group": group, "resource": plural, "subresource": subresource}
        if resource != "nodes":
            asked["namespace"] = where
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        allowed[verb_, group, resource] = bool(context.cluster.post(address, body)["status"]["allowed"])
    return doctor.Rights(allowed, where)
