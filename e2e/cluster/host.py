"""What `up` changes on the machine outside its state directory, and how `down` puts it back."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

from common.progress import say
from common.room import ensure_room

from cluster import proc
from cluster.command import run
from cluster.errors import ClusterError
from cluster.layout import NETWORK, NODE_IP, POD_CIDR, PORTS, SERVICE_CIDR, State
from cluster.packages import Packages

#: Kernel settings that Kubernetes changes: forwarding is ours and ptp's, the others are the kubelet's.
SYSCTLS = (
    "net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/netfilter/nf_conntrack_max",
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
)  # fmt: skip
#: Places that the kubelet, containerd and libcni write to whatever they are told.
DIRECTORIES = (
    "/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods",
    "/usr/libexec/kubernetes", "/etc/cni", "/opt/cni", "/opt/containerd",
)  # fmt: skip
NFT_TABLES = ("ip kube-proxy", "ip6 kube-proxy")
CGROUP = "kubepods"
ROOM = 6.0  # GiB; 5.4 were seen after the demo


def preflight(state: State, running: set[str]) -> None:
    """Raise ToolError with what to do if a cluster cannot be started here.

    `running` names the components that run already: their ports are not free, and that is right.
    """
    if not shutil.which("ip"):
        raise ClusterError("this machine has no `ip`: run `apt-get install iproute2`")
    if not cgroup_roots():
        raise ClusterError("no cgroup hierarchy is mounted under /sys/fs/cgroup: containers need one")
    # A Unix socket's address holds 107 characters, and this is our longest.
    if len(str(state.containerd_socket)) + len(".ttrpc") > 107:
        raise ClusterError(f"VERNAL_STATE is too long for Unix sockets in it: {state.root}")
    if not running:
        ensure_room(state.root, ROOM, "a node with its images and pods")
    for port, owner in PORTS.items():
        if owner.split()[0] not in running and not port_free(NODE_IP, port):
            raise ClusterError(
                f"port {port} is taken, and {owner} needs it{_holder(port)}: "
                "stop its holder, or set KUBECONFIG to a cluster that runs already"
            )


def port_free(address: str, port: int) -> bool:
    """Whether a TCP listener could be opened now, even if no interface has the address yet."""
    with socket.socket() as probe:
        probe.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND, ip(7)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError:
            return False
        return True


def _holder(port: int) -> str:
    if not shutil.which("ss"):
        return ""
    found = _output("ss", "-Hltnp", f"sport = :{port}").strip()
    return f" (held by: {' '.join(found.split())})" if found else ""


def prepare(state: State) -> None:
    """Write down how the machine is, then give it the node's address, a route to Services, and forwarding."""
    remember(state)
    _write_sysctl("net/ipv4/ip_forward", "1")
    for other in json.loads(_output("ip", "-j", "-4", "route", "show", "root", NETWORK) or "[]"):
        if other["dev"] != "lo" and not other["dev"].startswith("veth"):
            raise ClusterError(f"the network {NETWORK} is in use on this machine: `ip route` shows {other['dst']}")
    _call("ip", "address", "replace", f"{NODE_IP}/32", "dev", "lo")
    # Packets to a Service start on this route, until kube-proxy turns them to a pod. What no Service wants ends
    # on lo, not on the machine's network.
    _call("ip", "route", "replace", SERVICE_CIDR, "dev", "lo", "src", NODE_IP)


def remember(state: State) -> None:
    """Record settings and directories that `restore` puts back; a record of this boot is left as it is."""
    earlier = _record(state)
    if earlier.get("boot_id") == proc.boot_id():
        return
    shutil.rmtree(state.run, ignore_errors=True)  # of an earlier boot, so nothing in it is mounted or alive
    settings = {name: path.read_text().strip() for name in SYSCTLS if (path := Path("/proc/sys", name)).exists()}
    # Unlike settings, directories outlive a boot: what an earlier boot's cluster made is still ours to remove.
    absent = {path for path in DIRECTORIES if not Path(path).exists()} | set(earlier.get("absent", []))
    record = {"boot_id": proc.boot_id(), "sysctls": settings, "absent": sorted(absent)}
    state.root.mkdir(parents=True, exist_ok=True)
    state.host_record.write_text(json.dumps(record, indent=2))


def _record(state: State) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(state.host_record.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return loaded


def restore(state: State, packages: Packages | None) -> None:
    """Take away all that a cluster left outside its state directory. Its processes must be gone."""
    for veth in pod_links():
        _call("ip", "link", "delete", veth, check=False)
    unmount(state.root)
    remove_cgroups()
    if packages:
        for table in NFT_TABLES:
            _call(packages["nft"], "delete", "table", *table.split(), check=False)
    _call("ip", "route", "delete", SERVICE_CIDR, "dev", "lo", check=False)
    _call("ip", "address", "delete", f"{NODE_IP}/32", "dev", "lo", check=False)
    record = _record(state)
    if record.get("boot_id") == proc.boot_id():
        for name, value in record["sysctls"].items():
            _write_sysctl(name, value)
        for directory in record["absent"]:
            shutil.rmtree(directory, ignore_errors=True)
    state.host_record.unlink(missing_ok=True)


def pod_links() -> list[str]:
    """The host's ends of the pods' veth pairs: the links that routes to pods go through."""
    routes = json.loads(_output("ip", "-j", "-4", "route", "show", "root", POD_CIDR) or "[]")
    return sorted({route["dev"] for route in routes if route["dev"].startswith("veth")})


def mounts(below: Path) -> list[str]:
    """Mount points at or below a directory, innermost first."""
    return mount_points(Path("/proc/self/mountinfo").read_text(), below)


def mount_points(mountinfo: str, below: Path) -> list[str]:
    """The mount points at or below a directory in the text of a mountinfo file, last mounted first.

    Field 5 is the mount point, with space, tab, newline and backslash as octal escapes: proc(5).
    """
    escaped = [line.split()[4] for line in mountinfo.splitlines()]
    points = [re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), point) for point in escaped]
    return [point for point in reversed(points) if Path(point).is_relative_to(below)]


def unmount(below: Path) -> None:
    for point in mounts(below):
        _call("umount", "--lazy", point, check=False)
    if left := mounts(below):
        raise ClusterError(f"could not unmount {', '.join(left)}: look for who uses them with `fuser -vm {left[0]}`")


def cgroup_roots() -> list[Path]:
    """Where cgroup hierarchies, of either version, are mounted."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(line.split()[1]) for line in lines if line.split()[2] in ("cgroup", "cgroup2")]


def pod_processes() -> list[proc.Record]:
    """Every process in a pod's cgroup."""
    pids: set[int] = set()
    for root in cgroup_roots():
        for file in (root / CGROUP).rglob("cgroup.procs"):
            pids |= {int(pid) for pid in file.read_text().split()}
    return [record for pid in pids if (record := proc.inspect(pid))]


def remove_cgroups() -> None:
    for root in cgroup_roots():
        for folder, _, _ in os.walk(root / CGROUP, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError as error:
                say(f"could not remove cgroup {folder}: {error.strerror}")


def _write_sysctl(name: str, value: str) -> None:
    path = Path("/proc/sys", name)
    if path.read_text().split() != value.split():
        path.write_text(value)


def _call(*command: str, check: bool = True) -> None:
    done = run(command)
    if check and done.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")


def _output(*command: str) -> str:
    return run(command).stdout
