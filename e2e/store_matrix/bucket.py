"""The row of the bucket: versitygw behind a proxy that does what networks and servers do wrong."""

import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from object_store.server import S3Server
from patience import GUARD_SECONDS, until
from s3_proxy import Call, Choose, Fault, Lost, S3Proxy, Silent, Status

from store_matrix import programs
from store_matrix.children import Child, DiedError, HangError, run
from store_matrix.errors import CannotError
from store_matrix.faults import SHORT, YEAR, Effort
from store_matrix.judging import unsound
from store_matrix.places import Tmpfs
from store_matrix.table import PUBLISHED, REFUSED, Run

_ERROR = Status(500, "InternalError")
_FORBIDDEN = Status(403, "AccessDenied")
_WRITES = ("PUT", "POST", "DELETE")


class Bucket:
    """A server on a small disk of its own, and two artifacts to be pushed. Use as a context manager."""

    def __init__(self, top: Path) -> None:
        self._top, self._numbers = top, itertools.count(1)
        self.disk = Tmpfs(top / "s3")
        self._stack = ExitStack()

    def __enter__(self) -> "Bucket":
        self._top.mkdir()
        self._stack.callback(shutil.rmtree, self._top)
        self.disk.open()
        self._stack.callback(self.disk.close)
        try:
            self._server = self._stack.enter_context(S3Server(self.disk.top))
            self.sources = [self._source(number) for number in (1, 2, 99)]
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _source(self, number: int) -> Path:
        root = self.scratch()
        run("create", str(root), number=number)
        return root

    def scratch(self) -> Path:
        root = self._top / f"scratch-{next(self._numbers)}"
        root.mkdir()
        return root

    def fresh(self) -> "Fresh":
        name = self._server.make_bucket()
        return Fresh(self, f"s3://{name}/models", self._server.folder(name) / "models", self._server)


class Fresh:
    """An empty bucket."""

    def __init__(self, bucket: Bucket, url: str, folder: Path, server: S3Server) -> None:
        self._bucket, self._url, self.folder, self._server = bucket, url, folder, server
        self.environment = dict(server.environment)

    def proxy(self, choose: Choose) -> S3Proxy:
        proxy = S3Proxy(self._server.port, choose)
        # Who was killed, or has given up, is gone when the answer comes.
        proxy._server.handle_error = lambda request, address: None  # type: ignore[method-assign,assignment]
        return proxy

    def start(
        self, task: str, root: Path, proxy: S3Proxy | None = None, clock: dict[str, str] | None = None, **more: Any
    ) -> Child:
        endpoint = proxy.url if proxy else self._server.url
        environment = self.environment | (clock or {})
        return Child(task, str(root), environment=environment, url=self._url, endpoint=endpoint, **more)

    def run(self, task: str, root: Path, proxy: S3Proxy | None = None, **more: Any) -> dict[str, Any]:
        with self.start(task, root, proxy, **more) as child:
            try:
                return child.answer()
            except HangError:
                return {"outcome": "hangs", "state": "hangs"}

    def push(self, proxy: S3Proxy | None = None, source: int = 0, **more: Any) -> dict[str, Any]:
        return self.run("push", self._bucket.sources[source], proxy, **more)

    def pull(self, proxy: S3Proxy | None = None, **more: Any) -> dict[str, Any]:
        return self.run("pull", self._bucket.scratch(), proxy, **more)

    def judge(self, created: dict[str, Any] | None, at: str, *, damaged: bool = False) -> Run:
        """As `judging.judge`."""
        if created is not None and created["outcome"] in ("broken", "hangs"):
            return Run(created["outcome"], str(created), at)
        found = self.pull()
        if word := unsound(found, damaged):
            return Run(word, str(found), at)
        if found["state"] == "none" and created is not None and created["outcome"] == "published" and not damaged:
            return Run("lost", str(found), at)
        if not damaged:
            self.push(source=2)
            after = self.pull()
            if after["state"] != "whole":
                return Run("stuck", str(after), at)
        self.run("remove_all", self._bucket.scratch())
        if left := [str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()]:
            return Run("leftover", ", ".join(left), at)
        if found["state"] == "whole":
            return Run(PUBLISHED, point=at)
        reason = found["reason"] if created is None or damaged else created.get("reason", found["reason"])
        return Run(REFUSED, str(reason), at)


Strike = Callable[[Bucket, Effort], Iterator[Run]]


class _At:
    """Something happens at the call `number` (from 1 on): `do` is called once, and says what becomes of the call; with
    `on` also of every later one."""

    def __init__(self, number: int, do: Callable[[], Fault | None], on: bool = False) -> None:
        self._number, self._do, self._on = number, do, on
        self._count, self._lock = 0, threading.Lock()
        self.what = "after the last call"

    def __call__(self, call: Call) -> Fault | None:
        with self._lock:
            self._count += 1
            if self._count == self._number:
                self.what = f"at call {self._number}: {call.method} {call.path.rpartition('/models/')[2][:40]}"
            if self._count == self._number or (self._on and self._count > self._number):
                return self._do()
            return None


def _calls(bucket: Bucket, task: str = "push") -> int:
    fresh = bucket.fresh()
    with fresh.proxy(lambda call: None) as proxy:
        if task == "pull":
            fresh.push()
            fresh.pull(proxy)
        else:
            fresh.push(proxy)
        return len(proxy.calls)


def nothing(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    fresh = bucket.fresh()
    yield fresh.judge(fresh.push(), "")


def full(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """The server's disk."""
    for number in effort.of(_calls(bucket)):
        fresh = bucket.fresh()
        choose = _At(number, bucket.disk.fill)
        try:
            with fresh.proxy(choose) as proxy:
                created = fresh.push(proxy, retry=SHORT)
        finally:
            bucket.disk.empty()
        yield fresh.judge(created, choose.what)


def read_only(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """Credentials that may only read."""
    yield from _writes_fail(bucket, [1])


def turns_read_only(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    yield from _writes_fail(bucket, effort.of(_calls(bucket)))


def _writes_fail(bucket: Bucket, numbers: list[int]) -> Iterator[Run]:
    for number in numbers:
        fresh = bucket.fresh()
        seen = _At(number, lambda: _FORBIDDEN, on=True)
        with fresh.proxy(lambda call: fault if (fault := seen(call)) and call.method in _WRITES else None) as proxy:  # noqa: B023
            created = fresh.push(proxy, retry=SHORT)
        yield fresh.judge(created, seen.what)


def hangs_for_a_while(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    for number in effort.of(_calls(bucket)):
        fresh = bucket.fresh()
        choose = _At(number, Silent)
        with fresh.proxy(choose) as proxy, fresh.start("push", bucket.sources[0], proxy) as child:
            until("the creator to wait", lambda: proxy.met or child.ready())
            proxy.released.set()
            created = child.answer()
        yield fresh.judge(created, choose.what)


def hangs_for_ever(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    for number in effort.of(_calls(bucket)):
        fresh = bucket.fresh()
        choose = _At(number, Silent, on=True)
        with fresh.proxy(choose) as proxy:
            created = fresh.push(proxy, retry=SHORT, silent=SHORT)
            found = fresh.pull(proxy, retry=SHORT, silent=SHORT)
        if found["state"] != "none":
            yield Run(str(found["state"]), str(found), choose.what)
        yield fresh.judge(created, choose.what)


def killed(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """At each of its calls, which the server does or does not hear."""
    for fault in (_ERROR, Lost()):
        for number in effort.of(_calls(bucket)):
            fresh = bucket.fresh()
            started, pids = threading.Event(), list[int]()

            def kill(fault: Fault = fault, started: threading.Event = started, pids: list[int] = pids) -> Fault:
                started.wait(GUARD_SECONDS)
                os.kill(pids[0], signal.SIGKILL)
                return fault

            choose = _At(number, kill)
            with fresh.proxy(choose) as proxy, fresh.start("push", bucket.sources[0], proxy) as child:
                pids.append(child.pid)
                started.set()
                with suppress(DiedError):
                    child.answer()
            yield fresh.judge(None, choose.what)


def power_cut(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    raise CannotError("what a server has acknowledged is the server's to keep")
    yield


def server_is_lost(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """Every call fails from some point on, heard or unheard."""
    for fault in (_ERROR, Lost()):
        for number in effort.of(_calls(bucket)):
            fresh = bucket.fresh()
            choose = _At(number, lambda: fault, on=True)  # noqa: B023
            with fresh.proxy(choose) as proxy:
                created = fresh.push(proxy, retry=SHORT)
            yield fresh.judge(created, choose.what)


def fsync_fails(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    raise CannotError("a bucket has no fsync(2)")
    yield


def read_fails(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """500 at each GET of who pulls."""
    fresh = bucket.fresh()
    created = fresh.push()
    with fresh.proxy(lambda call: _ERROR if call.method == "GET" else None) as proxy:
        found = fresh.pull(proxy, retry=SHORT)
    yield Run(REFUSED, found["reason"]) if found["state"] == "none" else Run("wrong", str(found))
    yield fresh.judge(created, "afterwards")


def flipped_bit(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """In each object, on the server's disk."""

    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    yield from _damaged(bucket, flip)


def truncated(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """Each object has half of its bytes, or none, or is not there."""
    yield from _damaged(bucket, lambda file: os.truncate(file, file.stat().st_size // 2))
    yield from _damaged(bucket, lambda file: os.truncate(file, 0))
    yield from _damaged(bucket, Path.unlink)


def _damaged(bucket: Bucket, harm: Callable[[Path], None]) -> Iterator[Run]:
    fresh = bucket.fresh()
    fresh.push()
    names = sorted(path.relative_to(fresh.folder) for path in fresh.folder.rglob("*") if path.is_file())
    for index in range(len(names)):
        fresh = bucket.fresh()
        created = fresh.push()
        file = sorted(path for path in fresh.folder.rglob("*") if path.is_file())[index]
        harm(file)
        yield fresh.judge(created, str(names[index]), damaged=True)


def two_creators(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """The second publishes while a call of the first has not reached the server yet."""
    for number in effort.of(_calls(bucket)):
        fresh = bucket.fresh()
        go_on = threading.Event()

        def wait(go_on: threading.Event = go_on) -> None:
            go_on.wait(GUARD_SECONDS)

        choose = _At(number, wait)
        with fresh.proxy(choose) as proxy, fresh.start("push", bucket.sources[0], proxy) as first:
            try:
                until("the first to wait", lambda: choose.what.startswith("at") or first.ready())  # noqa: B023
                second = fresh.push(source=1)
            finally:
                go_on.set()
            created = first.answer()
        if "published" not in (created["outcome"], second["outcome"]):
            yield Run("lost", f"{created}, {second}", choose.what)
        else:
            yield fresh.judge({"outcome": "published"}, choose.what)


def collector_beside_reader(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """With no grace period at all, which the collector may not be run with beside readers: still never a wrong byte."""
    for number in effort.of(_calls(bucket, "pull")):
        fresh = bucket.fresh()
        fresh.push()
        go_on = threading.Event()

        def wait(go_on: threading.Event = go_on) -> None:
            go_on.wait(GUARD_SECONDS)

        choose = _At(number, wait)
        with fresh.proxy(choose) as proxy, fresh.start("pull", bucket.scratch(), proxy) as reader:
            try:
                until("the reader to wait", lambda: choose.what.startswith("at") or reader.ready())  # noqa: B023
                fresh.run("remove_all", bucket.scratch())
            finally:
                go_on.set()
            found = reader.answer()
        if word := unsound(found):
            yield Run(word, str(found), choose.what)
        else:
            yield Run(PUBLISHED) if found["state"] == "whole" else Run(REFUSED, str(found["reason"]))


def clock_is_off(bucket: Bucket, effort: Effort) -> Iterator[Run]:
    """A creator's, by a year: the server does not take what is signed then."""
    for seconds in (-YEAR, YEAR):
        fresh = bucket.fresh()
        yield fresh.judge(fresh.push(clock=programs.clock(seconds), retry=SHORT), f"by {seconds // 86400} days")


STRIKES: dict[str, Strike] = {
    "none": nothing,
    "full": full,
    "read-only": read_only,
    "turns read-only": turns_read_only,
    "hangs for a while": hangs_for_a_while,
    "hangs for ever": hangs_for_ever,
    "creator killed": killed,
    "power cut": power_cut,
    "device lost": server_is_lost,
    "EIO at fsync": fsync_fails,
    "EIO at read": read_fails,
    "bit flipped": flipped_bit,
    "truncated": truncated,
    "two creators": two_creators,
    "collector beside reader": collector_beside_reader,
    "clock off": clock_is_off,
}
