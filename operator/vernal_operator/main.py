"""`vernal-operator`: the command line, and kopf around the controller.

kopf gives the life of the process: start-up, login, signals, clean-up, the liveness endpoint. It watches nothing, for
reasons that no setting of it cures (docs/design/0015): `observe.informer` does.
"""

import argparse
import logging
import os
import re
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import kopf
import kubernetes
from vernal_contract import names

from vernal_operator import logs, metrics, probes, tracing
from vernal_operator.api.common import whole
from vernal_operator.api.overlay import CSI_DRIVERS
from vernal_operator.api.values import DIRECTORY
from vernal_operator.build.pod import NodeCache
from vernal_operator.client import Client, connect
from vernal_operator.controller import Controller
from vernal_operator.lease import LeaseSettings
from vernal_operator.settings import Settings
from vernal_operator.tracing import Tracer

log = logging.getLogger(__name__)

EXIT_DEPOSED = 3
"""Another operator holds the lease that this one held. Kubernetes starts it anew, and it stands by."""


class _Backoffs:
    """Seconds between kopf's own tries to reach the API server when it starts: 1, 2, 4, 8, 15, 15, and so on,
    so that an API server that is down makes it wait and not exit.
    """

    def __iter__(self) -> Iterator[float]:
        yield from (1.0, 2.0, 4.0, 8.0)
        while True:
            yield 15.0


def run(
    client: Client,
    settings: Settings,
    lease: LeaseSettings,
    *,
    liveness: str,
    metrics_host: str,
    metrics_port: int,
    tracer: Tracer | None = None,
) -> str | None:
    """Run until SIGTERM or SIGINT, or until another operator took over: then returns who."""
    successor: list[str] = []

    def deposed(by: str) -> None:
        log.error("%s is held by %s now: this operator ends", lease, by)
        successor.append(by)
        os.kill(os.getpid(), signal.SIGTERM)  # kopf ends as it does when it is told to

    controller = Controller(client, settings, lease, deposed, tracer)
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.scanning.disabled = True
        settings.networking.request_timeout = 15.0
        settings.networking.connect_timeout = 5.0
        settings.networking.error_backoffs = _Backoffs()
        probes.serve(metrics_host, metrics_port, lambda: controller.ready)
        controller.start()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return _login(client)

    @kopf.on.probe(registry=registry, id="controller")
    def probe(**_: Any) -> str:
        problems = controller.problems()
        if problems:
            log.error("not alive: %s", "; ".join(problems))
            raise kopf.PermanentError("; ".join(problems))
        return "standby" if controller.stands_by else "ready" if controller.ready else "listing"

    @kopf.on.cleanup(registry=registry)
    def stop(**_: Any) -> None:
        controller.stop()

    kopf.run(
        registry=registry,
        # Given, because kopf would make one from the user's name, and the container's user has none.
        identity=cast(Any, f"vernal-operator@{socket.gethostname()}"),
        standalone=True,
        clusterwide=settings.namespace is None,
        namespaces=[settings.namespace] if settings.namespace else [],
        liveness_endpoint=liveness or None,
    )
    return successor[0] if successor else None


def _login(client: Client) -> kopf.ConnectionInfo:
    """The client's credentials for kopf, which looks for the API server once, when it starts."""
    of = client.configuration
    scheme, _, token = (of.get_api_key_with_prefix("BearerToken", "authorization") or "").partition(" ")
    return kopf.ConnectionInfo(
        server=of.host, ca_path=of.ssl_ca_cert, insecure=not of.verify_ssl,
        certificate_path=of.cert_file, private_key_path=of.key_file,
        scheme=scheme or None, token=token or None,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "run" and args.prefetch and (not args.node_cache or args.namespace is not None):
        parser.error("--prefetch: needs --node-cache, and -A: an operator of one namespace may not read nodes")
    if args.command == "crds":
        # Only this command needs the generator.
        from vernal_operator.api.__main__ import files

        crds = [text for name, text in sorted(files().items()) if name.startswith("crds/")]
        sys.stdout.write("---\n".join(crds))
        return 0
    logs.set_up(args.log_level)
    try:
        client = connect()
    except kubernetes.config.ConfigException as error:
        print(
            f"error: no way to the API server: {error}. Set KUBECONFIG, or run in a pod with a service account.",
            file=sys.stderr,
        )
        return 2
    namespace, _, name = args.lease.rpartition("/")
    lease = LeaseSettings(
        namespace=namespace or _own_namespace() or args.namespace or "default",
        name=name,
        identity=args.identity or f"{socket.gethostname()}_{uuid.uuid4()}",
        seconds=args.lease_seconds,
    )
    waker_namespace, _, waker = args.waker.rpartition("/")
    CSI_DRIVERS.update(args.csi_driver)
    settings = Settings(
        namespace=args.namespace,
        threads=args.threads,
        admin_port=args.admin_port,
        waker=(waker_namespace or lease.namespace, waker) if waker else None,
        node_cache=NodeCache(args.node_cache, args.node_cache_size, args.prefetch, args.prefetch_at_once)
        if args.node_cache
        else None,
        watch_silence=args.watch_silence_seconds,
    )
    tracer = tracing.set_up("vernal-operator", lambda result, spans: metrics.SPANS.labels(result).inc(spans))
    try:
        successor = run(
            client,
            settings,
            lease,
            liveness=args.liveness,
            metrics_host=args.metrics_host,
            metrics_port=args.metrics_port,
            tracer=tracer,
        )
    except OSError as error:
        print(f"error: {error}. Choose another --metrics-port or --liveness.", file=sys.stderr)
        return 1
    finally:
        if tracer is not None:
            tracer.close()
    return 0 if successor is None else EXIT_DEPOSED


def _own_namespace() -> str:
    """The namespace of the pod that this process runs in; "" where it runs in none."""
    file = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return file.read_text().strip() if file.exists() else ""


def _directory(text: str) -> str:
    if text and not re.fullmatch(DIRECTORY, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no absolute path in its shortest form, below the root")
    return text


_MOST = 100
"""Nodes that fetch a checkpoint: the status remembers some more."""


def _bytes(text: str) -> int:
    try:
        size = whole(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no quantity, such as 100Gi: {error}") from error
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no room for anything")
    return size


def _number(text: str, least: int = 0) -> int:
    if text.isdecimal() and least <= int(text) <= _MOST:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {_MOST}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vernal-operator",
        description="The Kubernetes operator of Vernal: keeps VLLMWorkerPools and VLLMCheckpoints as their specs "
        "want them.",
        epilog="Try it from a terminal: vernal-operator crds | kubectl apply --server-side -f -; then "
        "KUBECONFIG=~/.kube/config vernal-operator run -A. In a cluster the Helm chart charts/vernal runs it; "
        "of several that look after the same namespaces one leads, and the others stand by.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("crds", help="print the CustomResourceDefinitions as YAML")
    run_parser = commands.add_parser(
        "run",
        help="run the operator until SIGTERM",
        description="Run the operator until SIGTERM, with KUBECONFIG or, in a pod, with the service account. "
        "Pools go on serving while it is down.",
    )
    where = run_parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-n", "--namespace", metavar="NS", help="the only namespace to look after")
    where.add_argument(
        "-A", "--all-namespaces", action="store_true", help="look after all namespaces (needs a ClusterRole)"
    )
    run_parser.add_argument(
        "--liveness", metavar="URL", default="", help="serve liveness there, e.g. http://0.0.0.0:8080/healthz"
    )
    run_parser.add_argument(
        "--metrics-port",
        type=int,
        default=8081,
        metavar="PORT",
        help="serve /metrics (Prometheus) and /readyz there (default: %(default)s; 0: any free port)",
    )
    run_parser.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="HOST", help="address for it (default: %(default)s)"
    )
    run_parser.add_argument(
        "--threads", type=int, default=4, metavar="N", help="reconciles at once (default: %(default)s)"
    )
    run_parser.add_argument(
        "--admin-port",
        type=int,
        default=names.PORT_ADMIN,
        metavar="PORT",
        help="admin port of workers (default: %(default)s)",
    )
    run_parser.add_argument(
        "--waker",
        default="",
        metavar="[NS/]NAME",
        help="the Service of the waker, to which pools without workers lead (default: none, and no pool goes to zero)",
    )
    run_parser.add_argument(
        "--csi-driver",
        action="append",
        default=[],
        metavar="NAME",
        help="a CSI driver of which pools may have inline volumes, once for each; none by default, since such a "
        "volume mounts whatever its attributes say",
    )
    run_parser.add_argument(
        "--node-cache",
        type=_directory,
        default="",
        metavar="DIRECTORY",
        help="a directory of each node in which workers keep copies of checkpoints, for each namespace one of its own "
        "(default: none)",
    )
    run_parser.add_argument(
        "--node-cache-size",
        type=_bytes,
        default="100Gi",
        metavar="SIZE",
        help="how much each namespace may have there, as a quantity of Kubernetes (default: %(default)s)",
    )
    run_parser.add_argument(
        "--prefetch",
        type=_number,
        default=0,
        metavar="N",
        help="how many nodes are to have each checkpoint in --node-cache before a pod is there, with -A (default: "
        "%(default)s, only workers fill it)",
    )
    run_parser.add_argument(
        "--prefetch-at-once",
        type=partial(_number, least=1),
        default=1,
        metavar="N",
        help="how many of these nodes fetch a checkpoint at a time (default: %(default)s)",
    )
    run_parser.add_argument(
        "--watch-silence-seconds",
        type=float,
        default=Settings().watch_silence,
        metavar="S",
        help="how long a watch may be silent before it is opened anew; the API server says a word about once a minute "
        "(default: %(default)s)",
    )
    run_parser.add_argument(
        "--lease",
        default="vernal-operator",
        metavar="[NS/]NAME",
        help="the Lease by which one of several operators leads (default: %(default)s in the pod's namespace; outside "
        "of a pod in that of -n, or in default)",
    )
    run_parser.add_argument(
        "--lease-seconds",
        type=float,
        default=15.0,
        metavar="S",
        help="how long another operator waits before it takes the place of one that is silent (default: %(default)s)",
    )
    run_parser.add_argument(
        "--identity",
        default="",
        metavar="NAME",
        help="who this operator is to the Lease: its pod's name, so that a restart in place need not wait "
        "(default: the host's name and a random part)",
    )
    run_parser.add_argument(
        "--log-level",
        default="INFO",
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="how much to log (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
