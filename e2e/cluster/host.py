"""What `up` changes on the machine outside its state directory, and how `down` puts it back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.progress import say
from common.room import ensure_memory, ensure_room

from cluster import proc
from cluster.command import run
from cluster.errors import ClusterError
from cluster.layout import NETWORK, NODE_IP, NODE_NAME, POD_CIDR, PORTS, SERVICE_CIDR, Node, State, nodes
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
#: The uppermost cgroups of pods: the first node's, and those that other nodes' are in.
CGROUPS = (CGROUP, f"{NODE_NAME}-*")
_TOOLS = ("unshare", "nsenter", "mount", "findmnt", "mkfs.ext4")
ROOM = 6.0  # GiB a node; 5.4 were seen after the demo
DISK = 16  # GiB at most, of a node's own where there is more than one
MEMORY = 3.0  # GiB a node with one tiny engine, where there is more than one node


def preflight(state: State, running: set[str], more: Sequence[Node] = ()) -> None:
    """Raise ToolError with what to do if a cluster cannot be started here.

    `running` names the components that run already: their ports are not free, and that is right. `more` are the nodes
    besides the first that are to be started, too.
    """
    if not shutil.which("ip"):
        raise ClusterError("this machine has no `ip`: run `apt-get install iproute2`")
    if missing := [tool for tool in _TOOLS if more and not shutil.which(tool)]:
        raise ClusterError(
            f"a second node needs {' and '.join(missing)}: run `apt-get install util-linux mount e2fsprogs`"
        )
    if not cgroup_roots():
        raise ClusterError("no cgroup hierarchy is mounted under /sys/fs/cgroup: containers need one")
    # A Unix socket's address holds 107 characters, and this is our longest.
    sockets = [paths.containerd_socket for paths in (state, *(node.state for node in more))]
    if max(len(str(socket)) for socket in sockets) + len(".ttrpc") > 107:
        raise ClusterError(f"VERNAL_STATE is too long for Unix sockets in it: {state.root}")
    if starting := (not running) + len(more):
        what = "a node with its images and pods" if starting == 1 else f"{starting} nodes with their images and pods"
        ensure_room(state.root, ROOM * starting, what)
    if more:
        ensure_memory(MEMORY * starting, what, "do with one node: `up --nodes 1`")
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
    for node in nodes(state):  # of an earlier boot, so nothing in it is mounted or alive
        shutil.rmtree(node.state.run, ignore_errors=True)
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
    for node in nodes(state):
        if not node.first:
            unplug(node)
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


def pod_groups(names: Sequence[str] = CGROUPS) -> list[Path]:
    """The uppermost cgroups of pods, in all hierarchies: of all nodes, or those with these names."""
    return [path for root in cgroup_roots() for name in names for path in root.glob(name)]


def pod_processes(names: Sequence[str] = CGROUPS) -> list[proc.Record]:
    """Every process in a pod's cgroup; `names` as for `pod_groups`."""
    pids: set[int] = set()
    for group in pod_groups(names):
        for file in group.rglob("cgroup.procs"):
            pids |= {int(pid) for pid in file.read_text().split()}
    return [record for pid in pids if (record := proc.inspect(pid))]


def remove_cgroups(names: Sequence[str] = CGROUPS) -> None:
    for group in pod_groups(names):
        for folder, _, _ in os.walk(group, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError as error:
                say(f"could not remove cgroup {folder}: {error.strerror}")


def plug(node: Node, pid: int) -> None:
    """A cable between the machine and the network namespace of a process, which is a node besides the first: addresses,
    and routes to pods and Services, in both directions. What is there already is left."""
    inside = ["nsenter", f"--target={pid}", "--net"]
    if not Path("/sys/class/net", node.link).exists():
        _call("ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _call("ip", "address", "replace", f"{NODE_IP}/32", "dev", node.link)
    _call("ip", "link", "set", node.link, "up")
    _call("ip", "route", "replace", f"{node.address}/32", "dev", node.link, "src", NODE_IP)
    for setting in (
        ("address", "replace", f"{node.address}/32", "dev", "eth0"),
        ("link", "set", "lo", "up"),
        ("link", "set", "eth0", "up"),
        ("route", "replace", f"{NODE_IP}/32", "dev", "eth0", "src", node.address),
        ("route", "replace", POD_CIDR, "via", NODE_IP, "dev", "eth0", "src", node.address),
        ("route", "replace", SERVICE_CIDR, "dev", "lo", "src", node.address),
    ):
        _call(*inside, "ip", *setting)
    _call("ip", "route", "replace", node.pod_cidr, "via", node.address, "dev", node.link, "src", NODE_IP)
    _call(*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def unplug(node: Node) -> None:
    """Take the cable away, and with it the machine's routes."""
    _call("ip", "link", "delete", node.link, check=False)


def furnish(node: Node, pid: int) -> None:
    """Make the mount and UTS namespaces of a process those of a node besides the first.

    It is given a host name and a machine id of its own, and directories of its own where every node has some that it
    writes to. Of the first node's mounts it keeps none: a copy would hold what the other lets go.
    """
    inside = ["nsenter", f"--target={pid}", "--mount", "--uts"]
    _call(*inside, "mount", "--make-rshared", "/")
    for point in mount_points(Path(f"/proc/{pid}/mountinfo").read_text(), node.cluster.root):
        _call(*inside, "umount", "--lazy", point, check=False)  # the first node may be quicker
    attach_disk(node, inside)
    for path in map(Path, DIRECTORIES):
        own = node.state.root / "host" / path.relative_to("/")
        for folder in (path, own):
            folder.mkdir(parents=True, exist_ok=True)
        _call(*inside, "mount", "--bind", str(own), str(path))
    if Path("/etc/machine-id").exists():
        machine_id = node.state.root / "host" / "machine-id"
        machine_id.write_text(hashlib.sha256(str(node.state.root).encode()).hexdigest()[:32] + "\n")
        _call(*inside, "mount", "--bind", str(machine_id), "/etc/machine-id")
    _call(*inside, "sh", "-c", f"echo {node.name} > /proc/sys/kernel/hostname")


def attach_disk(node: Node, inside: Sequence[str] = ()) -> None:
    """Mount the node's own disk, an image in its directory that is made first, where `inside` leads to, unless it is
    mounted. Two nodes that have only directories of one disk would fill it together, and thaw through one page cache.
    """
    local, image = node.cluster.local, node.state.root / "disk.ext4"
    local.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        made = image.with_suffix(".new")
        made.touch()
        os.truncate(made, DISK << 30)  # sparse: it takes what is written
        _call("mkfs.ext4", "-q", "-F", str(made))
        made.rename(image)
    if _output(*inside, "findmnt", "--noheadings", "--output=TARGET", "--mountpoint", str(local)) == "":
        _call(*inside, "mount", "-o", "loop", str(image), str(local))


def make_cgroup(node: Node) -> None:
    """The cgroup of a node besides the first, in every hierarchy: its kubelet asks for it to be there."""
    for root in cgroup_roots():
        (root / node.name).mkdir(exist_ok=True)


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
