"""`kubectl vernal logs POOL|POD`."""

import argparse
import queue
import threading
from collections.abc import Iterator

from vernal_contract import names

from kubectl_vernal import read
from kubectl_vernal.cluster import Object
from kubectl_vernal.errors import ApiError, Exit, NotFoundError
from kubectl_vernal.options import Context, Subparsers, verb


def add(commands: Subparsers) -> None:
    parser = verb(
        commands,
        "logs",
        run,
        "logs of a pool's workers, each line with its pod",
        "Vernal's own lines have event=...; the others are vLLM's.",
        "  kubectl vernal logs qwen --since 10m\n"
        "  kubectl vernal logs qwen -f | grep event=\n"
        "  kubectl vernal logs qwen-6f1c2a90-1 --previous    # of the container before: why did it end?",
        forms=(),
    )
    parser.add_argument("target", metavar="POOL|POD", help="name of a pool or of a worker's pod")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    parser.add_argument("--previous", action="store_true", help="of the container before the present one")
    parser.add_argument(
        "--tail", type=int, default=200, metavar="N", help="last lines of each pod (default: %(default)s; -1: all)"
    )
    parser.add_argument("--since", type=_duration, metavar="TIME", help="younger than this, such as 30s, 10m or 2h")


def _duration(text: str) -> int:
    units = {"s": 1, "m": 60, "h": 3600}
    if text[-1:] in units and text[:-1].isdigit():
        return int(text[:-1]) * units[text[-1]]
    raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30s, 10m or 2h")


def query(args: argparse.Namespace) -> dict[str, str]:
    """Parameters of pods/log."""
    found = {"container": names.CONTAINER_WORKER}
    if args.follow:
        found["follow"] = "true"
    if args.previous:
        found["previous"] = "true"
    if args.tail >= 0:
        found["tailLines"] = str(args.tail)
    if args.since:
        found["sinceSeconds"] = str(args.since)
    return found


def run(context: Context, args: argparse.Namespace) -> int:
    pods = _pods(context, args.target)
    wanted, failed = query(args), False
    for pod, line in _follow(context, pods, wanted) if args.follow else _read(context, pods, wanted):
        failed = failed or isinstance(line, ApiError)
        context.say(f"{read.name(pod)}: {line}" if len(pods) > 1 or isinstance(line, ApiError) else line)
    return Exit.CLUSTER if failed else Exit.OK


def _pods(context: Context, target: str) -> list[Object]:
    everybody = read.world(context.cluster, context.home, ("pods",)).of("pods")
    found = [pod for pod in everybody if target in (read.name(pod), read.labels(pod).get(names.LABEL_POOL))]
    if not found:
        raise NotFoundError(f"no pod and no pool's pods of the name {target!r} in namespace {context.home}")
    return sorted(found, key=read.name)


_Line = tuple[Object, str | ApiError]


def _read(context: Context, pods: list[Object], wanted: dict[str, str]) -> Iterator[_Line]:
    for pod in pods:
        try:
            for line in context.cluster.text(read.object_path("pods", pod, "log"), wanted).splitlines():
                yield pod, line
        except ApiError as error:
            yield pod, error


def _follow(context: Context, pods: list[Object], wanted: dict[str, str]) -> Iterator[_Line]:
    """Lines of all pods as they come, until all have ended. A thread that fails says so in its last line."""
    lines: queue.SimpleQueue[_Line | None] = queue.SimpleQueue()

    def follow(pod: Object) -> None:
        try:
            for line in context.cluster.lines(read.object_path("pods", pod, "log"), wanted):
                lines.put((pod, line))
        except ApiError as error:
            lines.put((pod, error))
        finally:
            lines.put(None)

    for pod in pods:
        threading.Thread(target=follow, args=(pod,), daemon=True).start()
    running = len(pods)
    while running:
        found = lines.get()
        if found is None:
            running -= 1
        else:
            yield found
