"""Pods for the command line: one checkpoint, made once and thawed again and again. Tests have fixtures for it."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.progress import say
from worker_pod import HOLDING, Pod


class Workers:
    """Starts pods; `end` takes all of them away."""

    def __init__(self, work: Path) -> None:
        from images.criu import criu_path
        from models.tiny import make_tiny_model

        self.work = work
        self.criu, self.model, self.store = criu_path(), work / "model", work / "store"
        self.store.mkdir(exist_ok=True)
        if not self.model.exists():
            make_tiny_model(self.model)
        self._numbers = itertools.count(1)
        self._pods: list[Pod] = []

    def log(self, name: str) -> Path:
        return self.work / f"{name}.log"

    def keep(self, pod: Pod) -> Pod:
        self._pods.append(pod)
        return pod

    def start(self, store: Path, **settings: Any) -> Pod:
        name = f"pod-{next(self._numbers)}"
        settings["engine_args"] = HOLDING | settings.pop("engine_args", {})
        return self.keep(Pod(name, self.log(name), store, self.model, self.criu, **settings))

    def make_checkpoint(self, store: Path | None = None, **settings: Any) -> None:
        """The slow start, if there is no checkpoint yet that fits."""
        say("the first worker (a minute if there is no checkpoint yet)")
        pod = self.start(store or self.store, **settings)
        state = pod.wait_ready()
        if state.start_mode != "Restored" and (state.freeze is None or state.freeze.outcome != "Published"):
            raise RuntimeError(f"no checkpoint was made: {state.freeze}; see {pod.log_path}")
        pod.end()

    def thawed(self, store: Path | None = None, **settings: Any) -> Pod:
        pod = self.start(store or self.store, **settings)
        state = pod.wait_ready()
        if state.start_mode != "Restored":
            raise RuntimeError(f"the worker started {state.start_mode} ({state.start_reason}); see {pod.log_path}")
        return pod

    def end(self) -> None:
        while self._pods:
            self._pods.pop().end()


@contextlib.contextmanager
def workers(work: str | None) -> Iterator[Workers]:
    """In a temporary directory, or in `work`, which stays."""
    with contextlib.ExitStack() as stack:
        where = (
            Path(work) if work else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vernal-shutdown-")))
        )
        where.mkdir(parents=True, exist_ok=True)
        made = Workers(where)
        stack.callback(made.end)
        yield made
