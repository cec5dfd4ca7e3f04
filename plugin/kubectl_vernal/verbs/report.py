"""`kubectl vernal report [POOL]`."""

import argparse
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from vernal_contract import names

from kubectl_vernal import read
from kubectl_vernal.cluster import Object
from kubectl_vernal.errors import ApiError, Exit, UsageError
from kubectl_vernal.options import Context, Subparsers, pool_argument, verb
from kubectl_vernal.views.redact import redact, text

_KINDS = (
    read.POOLS, read.CHECKPOINTS, "pods", "controllerrevisions", "services", "events", "jobs",
    "horizontalpodautoscalers", "poddisruptionbudgets", "persistentvolumeclaims",
)  # fmt: skip
_CLUSTER_KINDS = ("nodes", "leases")
_LINES = "5000"  # of each log


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "report",
        run,
        "a support bundle as a tar file, without secrets",
        "Writes objects, workers' states and logs (and those of the operator, where you may read them) into a "
        ".tar.gz. Secrets are not read; values of variables, arguments and log lines that look like one are "
        "replaced. Look into it before you hand it on: names of models, images and namespaces are in it.",
        "  kubectl vernal report qwen\n"
        "  kubectl vernal report -f bundle.tar.gz --no-logs\n"
        "  tar -xOzf bundle.tar.gz | grep -i password      # is there anything?",
        forms=(),
    )
    pool_argument(parser, optional=True)
    parser.add_argument("-f", "--file", metavar="FILE", default="", help="default: vernal-report-NAMESPACE-TIME.tar.gz")
    parser.add_argument("--no-logs", action="store_true", help="without logs")


def run(context: Context, args: argparse.Namespace) -> int:
    if args.pool:
        read.one(context.cluster, read.POOLS, context.home, args.pool)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    file = args.file or f"vernal-report-{context.home}-{stamp}.tar.gz"
    try:
        Path(file).touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise UsageError(f"{file} is there already: give another --file") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error}") from None
    count = 0
    try:
        with tarfile.open(file, "w:gz") as archive:
            for called, content in _files(context, args):
                data = content.encode()
                entry = tarfile.TarInfo(f"vernal-report/{called}")
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(data))
                count += 1
    except BaseException:  # half a bundle looks like a whole one
        Path(file).unlink(missing_ok=True)
        raise
    context.say(f"wrote {file}: {count} files, secrets redacted")
    return Exit.OK


def _files(context: Context, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Name and redacted content of each."""
    world = read.world(context.cluster, context.home, _KINDS, states=True, pool=args.pool, admin_port=args.admin_port)
    yield "version.json", _json(context.cluster.get("/version"))
    for kind, items in sorted(world.objects.items()):
        yield f"{kind}.json", _json(items)
    for called, state in sorted(world.states.items()):
        yield f"states/{called.rpartition('/')[2]}.json", _json(state)
    lacking = dict(world.unread) | {f"state of {called}": why for called, why in world.silent.items()}
    for kind in _CLUSTER_KINDS:
        try:
            yield f"{kind}.json", _json(read.world(context.cluster, None, (kind,)).of(kind))
        except ApiError as error:
            lacking[kind] = str(error)
    if not args.no_logs:
        for pod in world.of("pods"):
            yield from _logs(context, pod, names.CONTAINER_WORKER, lacking)
        for container in ("operator", "waker"):
            for pod in _own(context, container, lacking):
                yield from _logs(context, pod, container, lacking)
    yield "not-read.json", _json(lacking)


def _own(context: Context, container: str, lacking: dict[str, str]) -> list[Object]:
    """Pods of the chart, which labels them so: the operator's, or the waker's."""
    try:
        return context.cluster.items("/api/v1/pods", {"labelSelector": f"app.kubernetes.io/name=vernal-{container}"})
    except ApiError as error:
        lacking[container] = str(error)
        return []


def _logs(context: Context, pod: Object, container: str, lacking: dict[str, str]) -> Iterator[tuple[str, str]]:
    for previous in (False, True):
        if previous and not any(
            (entry.get("lastState") or {}) for entry in (pod.get("status") or {}).get("containerStatuses") or ()
        ):
            continue
        called = f"logs/{read.name(pod)}{'.previous' if previous else ''}.log"
        query = {"container": container, "tailLines": _LINES, **({"previous": "true"} if previous else {})}
        try:
            found = context.cluster.text(read.object_path("pods", pod, "log"), query)
        except ApiError as error:
            lacking[called] = str(error)
            continue
        yield called, "\n".join(text(line) for line in found.splitlines()) + "\n"


def _json(value: object) -> str:
    return json.dumps(redact(value), indent=1, ensure_ascii=False) + "\n"
