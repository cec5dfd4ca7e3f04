"""`vernal-waker`: the command line and the life of the process."""

import argparse
import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import kubernetes
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from vernal_contract import wakes as told
from vernal_operator import logs, tracing
from vernal_operator.client import Client, connect
from vernal_operator.tracing import Tracer

from vernal_waker import metrics
from vernal_waker.admission import Admission, Bounds
from vernal_waker.cluster import Cluster
from vernal_waker.front import Front
from vernal_waker.pools import Pools
from vernal_waker.wakes import Wakes

log = logging.getLogger(__name__)

Ask = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one waker. Times in seconds.

    Attributes:
        namespace: the only one whose pools it holds requests of; None for all.
        hold: how long a request waits for a worker.
        propagation: after SIGTERM, how long connections are still taken.
        drain: after that, how long requests may still take.
    """

    namespace: str | None
    bounds: Bounds
    hold: float
    propagation: float
    drain: float
    host: str | None
    probes_host: str
    probes_port: int


async def serve(client: Client, settings: Settings, tracer: Tracer | None = None) -> None:
    """Run until SIGTERM or SIGINT. Raises OSError if the port for probes is taken."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    due = asyncio.Event()
    wakes = Wakes()
    cluster = Cluster(client, settings.namespace, due.set, wakes)
    pools = Pools(cluster.wake, tracer)
    front = Front(pools, Admission(settings.bounds), settings.hold, settings.host)
    await front.start()
    listening = asyncio.Event()

    async def follow() -> None:
        while True:
            await due.wait()
            due.clear()
            pools.update(cluster.table())
            await front.follow()
            if cluster.synced:
                listening.set()

    following = asyncio.create_task(follow())
    probes = await _probes(
        settings,
        wakes,
        alive=lambda: cluster.alive and not following.done(),
        ready=lambda: listening.is_set() and not stopped.is_set(),
    )
    cluster.start()
    while not await cluster.listed() and not stopped.is_set():
        log.info("still waiting for the first list of EndpointSlices")
    due.set()  # where there is no pool, nothing else says so
    log.info("holding requests of pools in %s", settings.namespace or "all namespaces")
    await stopped.wait()
    log.info("leaving: connections are taken for %.0f s more", settings.propagation)
    front.leave()
    await asyncio.sleep(settings.propagation)
    await front.stop(settings.drain)
    following.cancel()
    cluster.stop()
    pools.close()
    await probes.cleanup()


async def _probes(settings: Settings, wakes: Wakes, *, alive: Ask, ready: Ask) -> web.AppRunner:
    def answer(ask: Ask) -> web.Response:
        return web.Response(text="ok\n") if ask() else web.Response(status=503, text="no\n")

    async def healthz(_: web.Request) -> web.Response:
        return answer(alive)

    async def readyz(_: web.Request) -> web.Response:
        return answer(ready)

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def woken(request: web.Request) -> web.Response:
        found = wakes.of(request.query.get("uid", ""))
        return web.Response(body=told.encode(found), content_type="application/json")

    app = web.Application()
    routes = {"/healthz": healthz, "/readyz": readyz, "/metrics": scrape, told.PATH: woken}
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, settings.probes_host, settings.probes_port).start()
    return runner


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    logs.set_up(args.log_level)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    connections = 2 * args.max_requests  # those that are answered, or kept, beside those that are held
    if most != resource.RLIM_INFINITY:
        connections = min(connections, most // 3)  # each may want another one to a worker
    settings = Settings(
        namespace=args.namespace,
        bounds=Bounds(args.max_requests, args.max_requests_per_pool, args.max_bytes, args.max_body_bytes, connections),
        hold=args.hold_seconds,
        propagation=args.propagation_seconds,
        drain=args.drain_seconds,
        host=args.host or None,
        probes_host=args.probes_host,
        probes_port=args.probes_port,
    )
    tracer = tracing.set_up("vernal-waker", lambda result, spans: metrics.SPANS.labels(result).inc(spans))
    try:
        asyncio.run(serve(connect(), settings, tracer))
    except kubernetes.config.ConfigException as error:
        print(
            f"error: no way to the API server: {error}. Set KUBECONFIG, or run in a pod with a service account.",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(f"error: {error}. Choose another --probes-port.", file=sys.stderr)
        return 1
    finally:
        if tracer is not None:
            tracer.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    bounds = Bounds()
    parser = argparse.ArgumentParser(
        prog="vernal-waker",
        description="Holds requests of VLLMWorkerPools that have no worker, asks for one, and hands them on to it.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-n", "--namespace", metavar="NS", help="the only namespace to look after")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="look after all namespaces")
    for name, value, text in (
        ("--max-requests", bounds.requests, "requests that are held at most"),
        ("--max-requests-per-pool", bounds.per_pool, "of these, requests of one pool"),
        ("--max-bytes", bounds.size, "bytes of their bodies, together"),
        ("--max-body-bytes", bounds.body, "bytes of one body"),
    ):
        parser.add_argument(name, type=int, default=value, metavar="N", help=f"{text} (default: %(default)s)")
    for name, seconds, text in (
        ("--hold-seconds", 900.0, "how long a request waits for a worker"),
        ("--propagation-seconds", 10.0, "how long connections are taken after SIGTERM"),
        ("--drain-seconds", 270.0, "how long requests may take after that"),
    ):
        parser.add_argument(name, type=float, default=seconds, metavar="S", help=f"{text} (default: %(default)s)")
    parser.add_argument("--host", default="", metavar="HOST", help="address to take requests at (default: all)")
    parser.add_argument(
        "--probes-host", default="127.0.0.1", metavar="HOST", help="address for /healthz, /readyz, /metrics and /wakes"
    )
    parser.add_argument(
        "--probes-port", type=int, default=8081, metavar="PORT", help="port for these (default: %(default)s)"
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="how much to log"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
