"""What a process tree has open of the world around it, and what of that no other pod has: looked at while it stands
still.

A thawed process finds its files by name and its connections by address. CRIU does not know which of them exist
elsewhere, so a thaw would end with an error that names neither the file nor whose fault it is.
"""

import ipaddress
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import procfs
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.host import MOUNTINFO, RUNTIMES, unescape

_PRIVATE = re.compile(r".*/kubernetes\.io~empty-dir/.*")
"""Where a kubelet keeps volumes that belong to one pod (the root of such a mount)."""

_MEMORY = ("tmpfs", "devtmpfs")
_NAMED = 5


@dataclass(frozen=True)
class Mount:
    point: str
    root: str
    kind: str


def mounts(mountinfo: str) -> list[Mount]:
    """From proc_pid_mountinfo(5)."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        root, point = map(unescape, fields.split()[3:5])
        found.append(Mount(point, root, rest.split()[0]))
    return found


def check(pids: Sequence[int], carried: Sequence[Path], since: float) -> None:
    """Refuse what a thaw would not find.

    Args:
        carried: directories that travel with the tree.
        since: when this container was started (seconds since the epoch): what was changed later is not its image's.

    Raises:
        CheckpointError: `FILES_NOT_CARRIED` or `CONNECTIONS_OPEN`; the message names them and the process.
    """
    here = mounts(MOUNTINFO.read_text())
    for pid in pids:
        if strays := sorted(set(_strays(procfs.references(pid), carried, since, here))):
            raise CheckpointError(
                Reason.FILES_NOT_CARRIED,
                "files",
                f"{_name(pid)} uses files that were made in this container and are in no other: {_some(strays)}",
            )
    addresses: Mapping[str, str] = connections(pids[0]) if pids else {}
    for pid in pids:
        if leading := sorted(addresses[inode] for inode in procfs.sockets(pid) if inode in addresses):
            raise CheckpointError(
                Reason.CONNECTIONS_OPEN,
                "files",
                f"{_name(pid)} has connections that lead out of the pod: {_some(leading)}",
            )


def used(pids: Iterable[int], carried: Sequence[Path]) -> tuple[str, ...]:
    """Mount points of volumes that a tree has files or directories open on, sorted."""
    here = mounts(MOUNTINFO.read_text())
    points = {
        _mount(path, here).point for pid in pids for path in procfs.references(pid) if not _is_below(path, carried)
    }
    return tuple(sorted(point for point in points if not RUNTIMES.fullmatch(point)))


def shared(carried: Sequence[Path]) -> Callable[[str], bool]:
    """Whether other pods have the same file: it is on a volume, and does not travel with the tree."""
    here = mounts(MOUNTINFO.read_text())
    return lambda path: not _is_below(path, carried) and not _private(_mount(path, here))


def _private(mount: Mount) -> bool:
    return mount.point == "/" or mount.kind in _MEMORY or _PRIVATE.fullmatch(mount.root) is not None


def _strays(paths: Iterable[str], carried: Sequence[Path], since: float, here: Sequence[Mount]) -> Iterator[str]:
    for path in paths:
        mount = _mount(path, here)
        from_outside = not _private(mount) or (mount.point != "/" and RUNTIMES.fullmatch(mount.point))
        if from_outside or _is_below(path, carried):
            continue
        try:
            info = Path(path).stat()
        except OSError:
            continue  # gone meanwhile: CRIU takes what has no name along
        if stat.S_ISREG(info.st_mode) and info.st_ctime > since:
            yield path


def connections(pid: int) -> dict[str, str]:
    """Sockets of a network namespace that are tied to an address which is not loopback, by inode."""
    found: dict[str, str] = {}
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            local, remote = (_address(field) for field in fields[1:3])
            for (address, port), what in ((remote, "to"), (local, "at")):
                if not (address.is_loopback or address.is_unspecified):
                    found.setdefault(fields[9], f"{protocol} {what} {address} port {port}")
    return found


def _address(field: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """From e.g. `0100007F:1F90`: words in the machine's byte order, which is little endian."""
    text, _, port = field.partition(":")
    words = bytes.fromhex(text)
    data = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    address = ipaddress.ip_address(data)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped, int(port, 16)
    return address, int(port, 16)


def _mount(path: str, here: Sequence[Mount]) -> Mount:
    """The mount that it is on: of those with the longest fitting name the last one."""
    root = Mount("/", "/", "")
    return max(
        (root, *(mount for mount in here if _is_below(path, [Path(mount.point)]))),
        key=lambda mount: len(mount.point),
    )


def _is_below(path: str, directories: Iterable[Path]) -> bool:
    return any(Path(path).is_relative_to(directory) for directory in directories)


def _name(pid: int) -> str:
    process = procfs.read(pid)
    return f"process {pid} ({process.comm})" if process else f"process {pid}"


def _some(things: Sequence[str]) -> str:
    more = len(things) - _NAMED
    return ", ".join(things[:_NAMED]) + (f" and {more} more" if more > 0 else "")
