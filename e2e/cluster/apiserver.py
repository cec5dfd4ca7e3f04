"""Only etcd and kube-apiserver, on free loopback ports: what tests of a controller need. Needs no root.

with ApiServer() as server:
    ... server.url, server.kubeconfig ...
    server.kill(); server.start()   # the data survives, as after a crash

with ApiServer(release=build.OLDEST) as server: ...   # the oldest Kubernetes that the chart supports
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from types import TracebackType

from common.ports import free_port

from cluster import api, build, config, pki, proc
from cluster.build import Release
from cluster.errors import ClusterError

_NAMES = ("kube-apiserver", "etcd")
#: What the owner mark of these processes begins with, to tell them from a cluster's.
API_ONLY = "api-only:"


class ApiServer:
    """An API server of a release, with its own etcd. Ports and data stay the same from the first `start` to `close`.

    `directory` keeps data, keys and logs; without one they are in a temporary directory that `close` deletes.
    Authorization is RBAC, and `kubeconfig` is the administrator's. No controller and no scheduler runs.
    """

    def __init__(self, directory: Path | None = None, release: Release = build.NEWEST) -> None:
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="vernal-api-")) if directory is None else directory.absolute()
        self._binaries = build.ensure(release)
        self._processes = proc.Processes(self.directory / "run", self.directory / "logs", self.owner)
        pki.ensure(self._binaries, self.directory / "pki", "localhost", ["127.0.0.1", "10.0.0.1"])
        api_port, etcd_port = self._ports()
        self._plane = config.ControlPlane(
            pki=self.directory / "pki", etcd_data=self.directory / "etcd", address="127.0.0.1",
            api_port=api_port, etcd_port=etcd_port, service_cidr="10.0.0.0/16",
        )  # fmt: skip
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(config.kubeconfig(self.url, self.pki, "admin"))

    @property
    def owner(self) -> str:
        """The mark that its processes carry; see `proc.owned`."""
        return f"{API_ONLY}{self.directory}"

    @property
    def url(self) -> str:
        return self._plane.url

    @property
    def pki(self) -> Path:
        """Directory with ca.crt, and admin.crt and admin.key to show as the administrator."""
        return self._plane.pki

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @cached_property
    def kubectl(self) -> str:
        """Path of the newest release's kubectl; helm is beside it."""
        return build.ensure()["kubectl"]

    def start(self) -> None:
        """Start what does not run, and wait until /readyz says ok.

        Raises ClusterError with the end of a log if a process ends, or if it does not come.
        """
        self._processes.ensure("etcd", config.etcd(self._binaries, self._plane))
        self._processes.ensure("kube-apiserver", [
            *config.apiserver(self._binaries, self._plane),
            # A Service must not point to loopback, so nobody writes the endpoints of `kubernetes`.
            "--endpoint-reconciler-type=none",
        ])  # fmt: skip
        api.wait("kube-apiserver", api.Api(self.url, self.pki).ready, self._check)

    def _check(self) -> None:
        for name in _NAMES:
            self._processes.check(name)

    def stop(self) -> None:
        """End both with SIGTERM, the API server first; it ends its watches. The data stays for `start`."""
        for name in _NAMES:
            self._processes.stop([name])

    def kill(self, name: str = "kube-apiserver") -> None:
        """End one of `kube-apiserver` and `etcd` with SIGKILL, as a crash would."""
        if name not in _NAMES:
            raise ClusterError(f"there is no {name!r} to kill, only {' and '.join(_NAMES)}")
        self._processes.kill(name)

    def close(self) -> None:
        """Stop both, without patience, and delete the temporary directory."""
        for name in _NAMES:
            self._processes.kill(name)
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> ApiServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ports(self) -> tuple[int, int]:
        """The ports of an earlier run over the same directory, or two that are free now."""
        file = self.directory / "ports"
        if not file.exists():
            found: set[int] = set()
            while len(found) < 2:
                found.add(free_port())
            file.write_text(" ".join(map(str, found)))
        first, second = file.read_text().split()
        return int(first), int(second)
