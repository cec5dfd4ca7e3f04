"""Pods to freeze and thaw in."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


class PodError(Exception):
    """A call that failed in the pod; `reason`, `stage` and so on are those of the error there."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields["text"])
        self.__dict__.update(fields)


class Pod:
    """Calls methods of `pod.Agent` in a new pod, by name."""

    def __init__(self, shared: Path, criu: Path, wrapper: list[str]) -> None:
        self.process = subprocess.Popen(
            [
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net", "--ipc"),
                *(*wrapper, sys.executable, str(HERE / "pod.py"), str(shared), str(criu)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'contract'}:{ROOT / 'worker_image'}"},
        )
        self._answer()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            assert self.process.stdin
            self.process.stdin.write(json.dumps([method, arguments, keywords]) + "\n")
            self.process.stdin.flush()
            return self._answer()

        return call

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the pod's process 1 died"
        kind, value = json.loads(line)
        if kind == "error":
            raise PodError(value)
        return value

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def criu() -> Path:
    sys.path.insert(0, str(ROOT / "e2e"))
    from images.criu import criu_path

    return criu_path()


@pytest.fixture
def pods(tmp_path: Path, criu: Path) -> Iterator[Callable[..., Pod]]:
    """Makes pods that share the test's directory; a `wrapper` is a command that runs process 1."""
    with ExitStack() as stack:

        def make(*wrapper: str) -> Pod:
            pod = Pod(tmp_path, criu, list(wrapper))
            stack.callback(pod.end)
            return pod

        yield make


@pytest.fixture(scope="module")
def module_pods(criu: Path) -> Iterator[Callable[[Path], Pod]]:
    """Makes pods that share a given directory and live as long as the module's tests."""
    with ExitStack() as stack:

        def make(shared: Path) -> Pod:
            pod = Pod(shared, criu, [])
            stack.callback(pod.end)
            return pod

        yield make


@pytest.fixture
def pod_error() -> type[PodError]:
    return PodError


@pytest.fixture
def frozen_in() -> Callable[[Path], Any]:
    """Reads the `process.json` of a directory."""
    from vernal_worker.checkpoint import process

    def read(directory: Path) -> Any:
        sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
        return process.decode((directory / process.NAME).read_bytes(), sizes)

    return read
