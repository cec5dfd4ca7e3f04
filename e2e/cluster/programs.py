"""Programs that tests run, built from pinned Go modules, once for each content of the pins."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.cache import cache_dir
from common.lock import locked
from common.progress import step
from common.tools import ToolError, run

from cluster.build import environment, go_version_of, minimum_go, toolchain
from cluster.command import run as capture


@dataclass(frozen=True)
class Programs:
    """What is built together.

    Attributes:
        name: of the folder in the cache.
        sources: the folder with the pins.
        targets: by program, the go.mod in `sources` and the package.
        tags: for the compiler.
        takes: how long, for progress.
    """

    name: str
    sources: Path
    targets: Mapping[str, tuple[str, str]]
    takes: str
    tags: str = ""

    def toolchain(self) -> str:
        """The path of a go that takes the pins. Raises ClusterError if there is none to be had."""
        return toolchain(minimum_go((self.sources / "go.mod").read_text()))

    def ensure(self) -> dict[str, str]:
        """The paths of the programs by name, built first if the cache has none.

        Raises ToolError or ClusterError if there is no toolchain or no network.
        """
        go = self.toolchain()
        state = hashlib.sha256(
            f"{go_version_of(go)} {platform.machine()} {self.tags} {sorted(self.targets.items())}".encode()
        )
        for mod in sorted({mod for mod, _ in self.targets.values()}):
            for path in (self.sources / mod, (self.sources / mod).with_suffix(".sum")):
                state.update(f"\0{path.name}\0".encode() + path.read_bytes())
        directory = cache_dir() / self.name / state.hexdigest()[:16]
        if not directory.exists():
            with locked(directory, f"building {', '.join(self.targets)}"):
                if not directory.exists():
                    self._build(go, directory)
        return {name: str(directory / name) for name in self.targets}

    def module(self, mod: str, name: str) -> Path:
        """The folder of a Go module's sources, at the version that a go.mod of `sources` pins; nothing is built.

        Raises ToolError if there is no network, ClusterError if there is no toolchain.
        """
        version = re.search(rf"{re.escape(name)} (v\S+)", (self.sources / mod).read_text())
        assert version is not None, f"{mod} does not name {name}"
        wanted = f"{name}@{version[1]}"
        command = [self.toolchain(), "-C", str(self.sources), "mod", "download", f"-modfile={mod}", "-json", wanted]
        done = capture(command, env=environment())
        if done.returncode:
            raise ToolError(
                f"{' '.join(command)} failed: {done.stdout}{done.stderr}Check the network and `go env GOPROXY`."
            )
        return Path(json.loads(done.stdout)["Dir"])

    def _build(self, go: str, directory: Path) -> None:
        scratch = directory.with_name(directory.name + ".building")
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
        scratch.mkdir()
        with step(f"compiling {', '.join(self.targets)} ({self.takes})"):
            for name, (mod, package) in self.targets.items():
                run(
                    ["nice", "-n", "5", go, "-C", str(self.sources), "build", "-mod=readonly", f"-modfile={mod}",
                     "-trimpath", f"-tags={self.tags}", "-buildvcs=false", "-ldflags=-s -w",
                     "-o", str(scratch / name), package],
                    "Check the network and `go env GOPROXY`.",
                    environment(),
                )  # fmt: skip
        scratch.rename(directory)
