"""A thin hand on kubectl: JSON in, JSON out, and waiting that says what it waits for."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from common.progress import alive, duration
from patience import GUARD_SECONDS

Object = dict[str, Any]
T = TypeVar("T")


class KubeError(RuntimeError):
    """kubectl said no; the message holds the command and kubectl's own words."""


class ScenarioTimeoutError(RuntimeError):
    """Something that was waited for did not come; the message says what was seen last."""


class Kube:
    """kubectl bound to one kubeconfig and one namespace."""

    def __init__(self, kubectl: Sequence[str], namespace: str) -> None:
        self._kubectl = list(kubectl)
        self.namespace = namespace

    def elsewhere(self, namespace: str) -> "Kube":
        """The same cluster, another namespace."""
        return Kube(self._kubectl, namespace)

    def run(self, *args: str, stdin: str | None = None, timeout: float = GUARD_SECONDS) -> str:
        command = [*self._kubectl, "--namespace", self.namespace, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise KubeError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, *manifests: Object) -> None:
        for manifest in manifests:
            self.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(manifest))

    def get(self, kind: str, name: str) -> Object | None:
        """The object, or None if there is none of that name."""
        text = self.run("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, selector: str = "") -> list[Object]:
        extra = ("--selector", selector) if selector else ()
        items: list[Object] = json.loads(self.run("get", kind, *extra, "-o", "json"))["items"]
        return items

    def pods(self, base: str, selector: str) -> Sequence[Object]:
        """Like `list`, by one request to the `proxy` at `base`. Raises: KubeError."""
        query = urllib.parse.urlencode({"labelSelector": selector})
        url = f"{base}/api/v1/namespaces/{self.namespace}/pods?{query}"
        try:
            with urllib.request.urlopen(url, timeout=GUARD_SECONDS) as response:
                items: list[Object] = json.load(response)["items"]
        except OSError as error:
            raise KubeError(f"asking for pods through kubectl proxy: {error}; is the cluster up?") from error
        return items

    def delete(self, kind: str, name: str, *, wait: bool = True) -> None:
        self.run("delete", kind, name, "--ignore-not-found", f"--wait={'true' if wait else 'false'}")

    @contextmanager
    def proxy(self) -> Iterator[str]:
        """`kubectl proxy` on a free loopback port for as long as the block runs; yields its base URL."""
        command = [*self._kubectl, "proxy", "--port=0", "--address=127.0.0.1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if not found:
                raise KubeError(f"kubectl proxy did not start: {line.strip()}")
            yield f"http://127.0.0.1:{found.group(1)}"
        finally:
            process.terminate()
            process.wait(timeout=GUARD_SECONDS)

    def pod_url(self, base: str, pod: str, port: int) -> str:
        return f"{base}/api/v1/namespaces/{self.namespace}/pods/{pod}:{port}/proxy"


def wait(what: str, probe: Callable[[], T | None], *, timeout: float = GUARD_SECONDS, every: float = 0.5) -> T:
    """Call `probe` until it returns something true; signs of life say what is waited for.

    Raises:
        ScenarioTimeoutError: nothing came within `timeout` seconds.
    """
    start = time.monotonic()
    with alive(f"waiting for {what}, at most {duration(timeout)}"):
        while True:
            result = probe()
            if result:
                return result
            if time.monotonic() - start > timeout:
                raise ScenarioTimeoutError(f"{what}: not within {timeout:.0f} s")
            time.sleep(every)


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of that type in an object's status."""
    for item in obj.get("status", {}).get("conditions", []):
        if item["type"] == kind:
            found: Object = item
            return found
    return None


def is_true(obj: Object | None, kind: str) -> bool:
    found = condition(obj, kind) if obj else None
    return bool(found and found["status"] == "True")


def die(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)
