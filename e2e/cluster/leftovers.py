"""Tells what a cluster left on the machine.

  export PYTHONPATH=e2e
  python -m cluster.leftovers snapshot before.json
  python -m cluster up; python -m cluster down
  python -m cluster.leftovers compare before.json

It looks at everything that an `up` touches (processes, links, addresses, routes, mounts, disks, cgroups, nftables,
kernel settings, directories), by its own eyes and not by the cluster's records. `compare` exits with 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common.cache import cache_dir

from cluster import host, layout, packages, proc
from cluster.apiserver import API_ONLY
from cluster.command import run
from cluster.errors import ClusterError

#: Sections, and in each the things that were there.
Snapshot = dict[str, list[str]]


def snapshot() -> Snapshot:
    """What is on the machine now, of the kinds that a cluster makes."""
    links, routes = _ip("address"), _ip("-4", "route", "show", "table", "all")
    places = [*host.DIRECTORIES, str(layout.state_dir())]
    found = {
        "processes": _processes(),
        "links": [link["ifname"] for link in links],
        "addresses": [f"{link['ifname']} {address['local']}" for link in links for address in link["addr_info"]],
        "routes": [f"{route['dst']} dev {route.get('dev')}" for route in routes],
        "mounts": _mounts(),
        "disks": _disks(),
        "cgroups": _cgroups(),
        "nftables": _nftables(),
        "sysctls": [f"{name} = {' '.join(path.read_text().split())}" for name, path in _sysctls().items()],
        "directories": [path for path in places if Path(path).exists()],
    }
    return {section: sorted(set(items)) for section, items in found.items()}


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that is in one of two snapshots only."""
    lines = []
    for section in sorted(before.keys() | after.keys()):
        old, new = set(before.get(section, [])), set(after.get(section, []))
        lines += [f"{section}: left behind: {item}" for item in sorted(new - old)]
        lines += [f"{section}: gone: {item}" for item in sorted(old - new)]
    return lines


def _mounts() -> list[str]:
    """All mounts but those in the cache: image builds mount there, a cluster never does."""
    cache = cache_dir()
    return [point for point in host.mounts(Path("/")) if not Path(point).is_relative_to(cache)]


def _disks() -> list[str]:
    """Loop devices over a node's image."""
    files = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [name for name in files if Path(name.removesuffix(" (deleted)")).name == "disk.ext4"]


def _processes() -> list[str]:
    """Processes of any cluster: those that carry its mark, run its programs, or sit in a pod's cgroup.

    API servers that tests run by themselves are no part of a cluster, nor are clients of those: a cluster's own
    carry the mark.
    """
    pods = {record.pid for record in host.pod_processes()}
    found = []
    for record in proc.all_processes():
        owner = proc.owner_of(record.pid) or ""
        if not owner.startswith(API_ONLY) and (owner or record.pid in pods or _is_built(record)):
            found.append(f"{record.pid} {' '.join(record.argv)[:100]}")
    return found


def _is_built(record: proc.Record) -> bool:
    try:
        program = Path(f"/proc/{record.pid}/exe").readlink()
    except OSError:
        return False
    cache = cache_dir()
    built = program.is_relative_to(cache / "kubernetes") or program.is_relative_to(cache / "node")
    return built and record.name not in ("kubectl", "helm")


def _cgroups() -> list[str]:
    """The uppermost groups of each hierarchy, and everything below those of pods."""
    found = []
    for root in host.cgroup_roots():
        found += [str(path) for path in root.iterdir() if path.is_dir()]
    found += [str(path) for group in host.pod_groups() for path in group.rglob("*") if path.is_dir()]
    return found


def _nftables() -> list[str]:
    # -s leaves out the counters, which tick.
    done = run([packages.ensure()["nft"], "-s", "list", "ruleset"])
    if done.returncode:
        raise ClusterError(f"nft list ruleset failed: {done.stderr.strip()}")
    return [line.strip() for line in done.stdout.splitlines()]


def _sysctls() -> dict[str, Path]:
    return {name: path for name in host.SYSCTLS if (path := Path("/proc/sys", name)).exists()}


def _ip(*arguments: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(run(["ip", "-j", *arguments]).stdout or "[]")
    return loaded


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.leftovers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("snapshot", "compare"), help="write FILE, or print what differs from it")
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON")
    arguments = parser.parse_args()
    if arguments.action == "snapshot":
        arguments.file.write_text(json.dumps(snapshot(), indent=2))
        return 0
    found = differences(json.loads(arguments.file.read_text()), snapshot())
    print("\n".join(found) or f"nothing differs from {arguments.file}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
