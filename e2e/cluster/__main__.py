"""The command line: `python -m cluster VERB` with e2e on PYTHONPATH."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from common.cache import cache_dir
from common.progress import say

from cluster import build, images, layout, packages, proc
from cluster.apiserver import ApiServer
from cluster.command import run
from cluster.errors import ClusterError
from cluster.layout import State, state_dir
from cluster.member import Member
from cluster.node import Cluster, foreign_kubeconfig

_EPILOG = """\
environment:
  KUBECONFIG     a cluster of your own: `up` then only checks that it answers, and builds nothing
  VERNAL_STATE   the cluster's data, keys and logs (default /var/lib/vernal-cluster)
  VERNAL_CACHE   built and downloaded programs, safe to delete (default ~/.cache/vernal)
  VERNAL_LOG     the file for what compilers and the like say (default: a new one in the cache)

first use:
  export PYTHONPATH=e2e
  python -m cluster up                              # compiles Kubernetes the first time
  export KUBECONFIG=$(python -m cluster kubeconfig)
  python -m cluster kubectl get nodes
  python -m cluster clean                           # leaves nothing but the cache
"""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended and locks are given back
    verb, *given = sys.argv[1:] or [""]
    if verb in ("kubectl", "helm"):  # argparse would take their flags for its own
        arguments = argparse.Namespace(run=_tool, verb=verb, arguments=given)
    else:
        arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments, State(state_dir())) or 0)
    except (ClusterError, OSError) as error:
        print(f"cluster: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cluster: interrupted; run the same again to go on, or `down` to undo", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A real Kubernetes on one machine, without a container registry.",
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", help="what to do")

    def verb(name: str, help: str, run: object) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    up = verb("up", "start the cluster, or repair it, or do nothing if it is healthy", _up)
    up.add_argument(
        "--nodes", type=int, choices=range(1, layout.MAX_NODES + 1), help="how many nodes it shall have (default: as "
        "many as it has, at first 1): the second has kubelet, containerd, network and disk of its own, in namespaces",
    )  # fmt: skip
    verb("down", "stop it and put the machine back; images and API objects stay for the next `up`", _down)
    verb("clean", "`down`, and delete the state directory", _clean)
    verb("status", "print how each component is; exit status 0 if all is well", _status)
    node = verb("node", "take the second node away as a power cut does, or bring it back", _node)
    node.add_argument("action", choices=("stop", "start"), help="stop ends its pods and its kubelet at once, unasked")
    node.add_argument("name", metavar="NAME", help="such as vernal-node-2; kubectl drain is for one that goes in peace")
    verb("kubeconfig", "print the path of the kubeconfig", _kubeconfig)
    load = verb("load-image", "import an OCI layout (directory or tar) or a docker tar into every node", _load)
    load.add_argument("source", type=Path, metavar="TAR_OR_OCI_DIR", help="as e2e/images/build.py prints it")
    load.add_argument("--name", help="name to give it, such as vernal.dev/worker:dev (default: the one written in it)")
    for tool in ("kubectl", "helm"):
        verb(tool, f"run {tool} on the cluster with the arguments that follow", _tool)
    verb("build", "only build the programs of both releases, and print the folders that they are in", _build)
    only = verb("api-only", "etcd and kube-apiserver alone, on free loopback ports, without root", _api_only)
    only.add_argument("action", choices=("up", "down"), help="up prints a kubeconfig")
    where = Path(tempfile.gettempdir()) / f"vernal-api-only-{os.getuid()}"
    only.add_argument("--oldest", action="store_true", help="the oldest Kubernetes that the chart supports")
    only.add_argument("--directory", type=Path, default=where, help="its data and logs (default: %(default)s)")
    return parser


def _up(arguments: argparse.Namespace, state: State) -> None:
    if own := foreign_kubeconfig(state):
        _check_foreign(own)
    else:
        Cluster(state).up(arguments.nodes)


def _check_foreign(kubeconfig: str) -> None:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        raise ClusterError(f"KUBECONFIG is {kubeconfig}, and there is no kubectl on PATH to try it with")
    done = run([kubectl, "version", "--request-timeout=60s"])
    if done.returncode:
        raise ClusterError(f"the cluster of KUBECONFIG={kubeconfig} does not answer:\n{done.stderr.strip()}\n"
                           "Repair it, or unset KUBECONFIG to use the embedded cluster.")  # fmt: skip
    say(f"using the cluster of KUBECONFIG={kubeconfig}; nothing was built or started")


def _down(_: argparse.Namespace, state: State) -> None:
    Cluster(state).down()


def _clean(_: argparse.Namespace, state: State) -> None:
    Cluster(state).clean()


def _status(_: argparse.Namespace, state: State) -> bool:
    return not Cluster(state).status()


def _node(arguments: argparse.Namespace, state: State) -> None:
    if own := foreign_kubeconfig(state):
        raise ClusterError(f"KUBECONFIG={own} is not the embedded cluster: its nodes are not ours to stop")
    cluster = Cluster(state)
    {"stop": cluster.stop_node, "start": cluster.start_node}[arguments.action](arguments.name)


def _kubeconfig(_: argparse.Namespace, state: State) -> None:
    print(_kubeconfig_path(state))


def _kubeconfig_path(state: State) -> str:
    own = foreign_kubeconfig(state)
    if not own and not state.kubeconfig.exists():
        raise ClusterError("there is no cluster yet: run `up`")
    return own or str(state.kubeconfig)


def _load(arguments: argparse.Namespace, state: State) -> None:
    if own := foreign_kubeconfig(state):
        raise ClusterError(f"KUBECONFIG={own} is not the embedded cluster: push {arguments.source} to its registry")
    tools = packages.ensure()
    names: dict[str, None] = {}  # each once, in order
    for node in layout.nodes(state):
        if Member(node).lost:
            say(f"{node.name} is stopped: load it again when it runs")
            continue
        names |= dict.fromkeys(images.load(tools, node, arguments.source, arguments.name))
    print("\n".join(names))


def _tool(arguments: argparse.Namespace, state: State) -> None:
    environment = {**os.environ, "KUBECONFIG": _kubeconfig_path(state)}
    if not foreign_kubeconfig(state):
        # Discovery caches go by address, and every new cluster has the same one. What still runs when the cluster goes,
        # because who started it was killed, goes with it.
        environment |= {"KUBECACHEDIR": str(state.run / "kubectl-cache"), proc.OWNER_VARIABLE: str(state.root)}
    own = state.bin / arguments.verb
    program = str(own) if own.exists() else build.ensure()[arguments.verb]
    os.execve(program, [arguments.verb, *arguments.arguments], environment)


def _build(_: argparse.Namespace, state: State) -> None:
    del state
    packages.ensure()
    for release in (build.NEWEST, build.OLDEST):
        print(build.ensure(release).directory)
    say(f"everything is in {cache_dir()}")


def _api_only(arguments: argparse.Namespace, _: State) -> None:
    if arguments.action == "down" and not arguments.directory.exists():
        say(f"nothing to take down: {arguments.directory} does not exist")
        return
    arguments.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = ApiServer(arguments.directory, build.OLDEST if arguments.oldest else build.NEWEST)
    if arguments.action == "up":
        server.start()
        print(server.kubeconfig)
    else:
        server.close()
        shutil.rmtree(arguments.directory)


if __name__ == "__main__":
    sys.exit(main())
