"""Keys and certificates of one control plane, made once by `vernal-kube certs`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.build import Binaries
from cluster.command import run
from cluster.errors import ClusterError


def ensure(binaries: Binaries, directory: Path, node: str, addresses: Sequence[str]) -> None:
    """Fill `directory` with the authorities, certificates and keys of a control plane, unless it is there.

    Raises ClusterError if they cannot be written.
    """
    if directory.exists():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix="pki-"))
    try:
        ips = ",".join(addresses)
        done = run([binaries["vernal-kube"], "certs", f"--dir={scratch}", f"--node={node}", f"--ips={ips}"])
        if done.returncode:
            raise ClusterError(f"making certificates in {directory.parent} failed: {done.stderr.strip()}")
        scratch.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
