"""A pool's pods as they come and go, from one watch."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from patience import GUARD_SECONDS

from scenarios.kube import Kube, ScenarioTimeoutError


@dataclass
class Gone:
    """A pod that was deleted. `seconds`: from the deletion to the moment that the API server forgot it; `last`: as it
    was seen last."""

    name: str
    uid: str
    seconds: float
    exit_code: int | None
    restarts: int
    last: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass
class Watch:
    """Use as a context manager. `pods` and `gone` are kept up to date by a thread, which watches again when the API
    server ends a watch, as it does after half an hour or more."""

    kube: Kube
    selector: str
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: list[Gone] = field(default_factory=list)
    _asked: dict[str, float] = field(default_factory=dict)  # when the deletion of which pod was asked for
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> "Watch":
        self._over = False
        self._process = self._open()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._process.terminate()
        self._thread.join()

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds.

        Raises: ScenarioTimeoutError.
        """
        deadline = time.monotonic() + GUARD_SECONDS
        with self._changed:
            while not condition():
                if not self._thread.is_alive():
                    raise ScenarioTimeoutError(f"{what}: the watch on pods ended and could not be opened again")
                if time.monotonic() > deadline:
                    raise ScenarioTimeoutError(f"{what}: not within {GUARD_SECONDS:.0f} s; pods: {sorted(self.pods)}")
                self._changed.wait(1.0)

    def ready(self) -> list[dict[str, Any]]:
        """Pods that are ready and stay."""
        return [pod for pod in self.staying() if is_ready(pod)]

    def staying(self) -> list[dict[str, Any]]:
        return [pod for pod in list(self.pods.values()) if "deletionTimestamp" not in pod["metadata"]]

    def _command(self) -> list[str]:
        return [*self.kube._kubectl, "--namespace", self.kube.namespace, "get", "pods", "--selector", self.selector]

    def _open(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._command(), "--watch", "--output-watch-events", "-o", "json"], stdout=subprocess.PIPE, text=True
        )

    def _follow(self) -> None:
        self._read()
        while not self._over:
            listed = json.loads(subprocess.check_output([*self._command(), "-o", "json"]))["items"]
            with self._changed:
                there = {pod["metadata"]["uid"] for pod in listed}
                for pod in [pod for pod in self.pods.values() if pod["metadata"]["uid"] not in there]:
                    self._forget(pod)
                self._changed.notify_all()
            self._process = self._open()
            if self._over:  # __exit__ may have ended the one before
                self._process.terminate()
            self._read()

    def _forget(self, pod: dict[str, Any]) -> None:
        self.pods.pop(pod["metadata"]["name"], None)
        self.gone.append(_gone(pod, self._asked.get(pod["metadata"]["uid"], time.time())))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for event in _objects(self._process.stdout):
            pod = event["object"]
            metadata = pod["metadata"]
            with self._changed:
                if "deletionTimestamp" in metadata:
                    # Of the first sight only: the kubelet's last delete, with no grace, sets it to that moment.
                    asked = _epoch(metadata["deletionTimestamp"]) - metadata.get("deletionGracePeriodSeconds", 0)
                    self._asked.setdefault(metadata["uid"], asked)
                if event["type"] == "DELETED":
                    self._forget(pod)
                else:
                    self.pods[pod["metadata"]["name"]] = pod
                self._changed.notify_all()
        self._process.wait()


def _gone(pod: dict[str, Any], asked: float) -> Gone:
    metadata = pod["metadata"]
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    ended = statuses[0].get("state", {}).get("terminated") or {}
    return Gone(
        metadata["name"],
        metadata["uid"],
        time.time() - asked,
        ended.get("exitCode"),
        statuses[0].get("restartCount", 0),
        pod,
    )


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _epoch(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def _objects(stream: IO[str]) -> Iterator[dict[str, Any]]:
    """JSON objects that follow each other, however they are laid out in lines."""
    decoder, text = json.JSONDecoder(), ""
    for line in stream:
        text = (text + line).lstrip()
        if line.rstrip() not in ("}", "") and not line.startswith("{"):
            continue  # in the middle of one: do not try again for each line
        try:
            found, end = decoder.raw_decode(text)
        except json.JSONDecodeError:
            continue
        text = text[end:]
        yield found
