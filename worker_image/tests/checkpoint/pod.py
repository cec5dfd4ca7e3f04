"""A pod for tests: fresh namespaces with empty /tmp, /dev/shm and /run, and an agent as process 1.

`SHARED` (argv: the test's directory) is the pod's shared storage. The agent runs one call a line from stdin:
`[method, arguments, keywords]` and answers `["ok", result]` or `["error", {...}]` with one line of JSON.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

SHARED = Path("/run/shared")
WORK = Path("/run/vernal-test")
SIZES = "sizes.json"
SOCKET = "/run/tree/subject.sock"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
SUBJECT = Path(__file__).with_name("subject.py")
sys.path.append(str(Path(__file__).resolve().parents[3] / "e2e"))
from patience import GUARD_SECONDS  # noqa: E402

COVER = Path(__file__).resolve().parents[1] / "cover.sh"


class Agent:
    """What the supervisor does, one step a call."""

    def __init__(self, criu: str) -> None:
        from vernal_worker.checkpoint import freeze, thaw
        from vernal_worker.checkpoint.tree import ProcessTree
        from vernal_worker.store import lease

        # Nothing is left, broken or lying about, because the machine is slow.
        freeze.STOP_GRACE = thaw.KILL_TIMEOUT = thaw._LAID_SECONDS = lease._RELEASE_SECONDS = GUARD_SECONDS
        self.criu = criu
        self.tree: ProcessTree | None = None
        self.output = ""
        self.cancel = threading.Event()
        Path("/run/tree").mkdir()

    def launch(
        self, ballast_mib: int = 1, argv: list[str] | None = None, more: dict[str, str] | None = None, **spec: Any
    ) -> int:
        """`more`: of the environment."""
        from vernal_worker.checkpoint.launch import LaunchSpec, launch

        command = argv or [sys.executable, "-S", str(SUBJECT), SOCKET, str(ballast_mib)]
        self.tree = launch(LaunchSpec(command, ENVIRONMENT | (more or {}), **spec))
        if argv is None:
            self.read_until("ready")
        return self.tree.pid

    def freeze(
        self, name: str, cancel_after: float | None = None, carry: list[str] | None = None, **options: Any
    ) -> Any:
        from vernal_worker.checkpoint.freeze import freeze

        assert self.tree is not None
        self._cancel_after(cancel_after)
        if carry is not None:
            options["carry"] = [Path(c) for c in carry]
        options.setdefault("criu", self.criu)
        options.setdefault("timeout", GUARD_SECONDS)
        result = freeze(self.tree, SHARED / name, work_dir=WORK, cancel=self.cancel, **options)
        sizes = {path.name: path.stat().st_size for path in (SHARED / name).iterdir()}
        (SHARED / name / SIZES).write_text(json.dumps(sizes))  # what a store's manifest keeps
        return {
            "timings": result.timings,
            "pids": result.pids,
            "pipes": result.pipes,
            "files": result.files,
            "bytes": result.bytes,
            "mounts": result.mounts,
        }

    def thaw(
        self,
        name: str,
        cancel_after: float | None = None,
        problem: str | None = None,
        first: list[int] | None = None,
        **options: Any,
    ) -> Any:
        """`problem`: what verification finds to be wrong. `first`: processes that run before the others."""
        from vernal_contract.reasons import Reason
        from vernal_worker.checkpoint import process
        from vernal_worker.checkpoint.errors import CheckpointError
        from vernal_worker.checkpoint.thaw import thaw

        def verified() -> None:
            tasks = [path for pid in frozen.ids for path in Path(f"/proc/{pid}/task").glob("*/stat")]
            self.states = [path.read_text().rpartition(")")[2].split()[0] for path in tasks]
            if problem is not None:
                raise CheckpointError(Reason.DIGEST_MISMATCH, "verify", problem)

        self._cancel_after(cancel_after)
        options.setdefault("criu", self.criu)
        options.setdefault("timeout", GUARD_SECONDS)
        sizes = json.loads((SHARED / name / SIZES).read_text())
        frozen = process.decode((SHARED / name / process.NAME).read_bytes(), sizes)
        if not options.pop("memory", True):
            frozen = msgspec.structs.replace(frozen, memory=())
        options["verified"] = verified
        began: list[str] = []
        options["started"] = lambda: began.append("CRIU")
        if first is not None:
            options["ahead"] = self._ahead(frozen, first, options.pop("failure", None))
        result = thaw(SHARED / name, frozen, work_dir=WORK, cancel=self.cancel, **options)
        assert began == ["CRIU"], "said once, when it runs"
        self.tree = result.tree
        self.output = ""
        return result.timings

    def _ahead(self, frozen: Any, first: list[int], failure: str | None) -> Any:
        """Looks at all processes when each sleeps or is stopped, and fails if it is to."""
        from vernal_contract.reasons import Reason
        from vernal_worker.checkpoint.errors import CheckpointError
        from vernal_worker.checkpoint.waking import Ahead

        def look() -> dict[str, list[str]]:
            return {
                str(pid): sorted({path.read_text().rpartition(")")[2].split()[0] for path in stats})
                for pid in frozen.pids
                if (stats := list(Path(f"/proc/{pid}/task").glob("*/stat")))
            }

        def begin() -> None:
            deadline = time.monotonic() + GUARD_SECONDS
            self.seen = look()
            while any("R" in states for states in self.seen.values()) and time.monotonic() < deadline:
                time.sleep(0.01)
                self.seen = look()
            self.filled = {
                str(memory.pid): any(any(_page(memory.pid, at)) for at, _ in memory.runs) for memory in frozen.memory
            }
            if failure is not None:
                raise CheckpointError(Reason.CUDA_RESTORE_FAILED, "cuda", failure)

        return Ahead(first, begin)

    def ahead_saw(self) -> Any:
        """States of each process's threads, and whether its memory was there, by PID, when the first ones ran."""
        return [self.seen, self.filled]

    def states_when_verified(self) -> list[str]:
        """Of every thread of the last tree, when it was asked for (proc_pid_stat(5))."""
        return self.states

    def _cancel_after(self, seconds: float | None) -> None:
        """No seconds: before it begins."""
        self.cancel = threading.Event()  # the timer of an earlier call may still set the one that it had
        if seconds == 0:
            self.cancel.set()
        elif seconds is not None:
            threading.Timer(seconds, self.cancel.set).start()

    def start_from_store(self, name: str) -> str:
        """A worker's start, as the supervisor goes about it; says how it ended."""
        from vernal_contract.identity import HostTuple, IdentityInputs
        from vernal_worker.store.lease import Owner
        from vernal_worker.store.store import Store
        from vernal_worker.supervisor.choose import must_skip_freeze

        store = Store(SHARED / name)
        key = (
            IdentityInputs(image_id="1", engine_args={}, engine_env={}, model="m", weights="InImage", versions={}),
            HostTuple(architecture="any", cpu_features=(), kernel="any"),
        )
        if (artifact := store.find(*key).artifact) is not None:
            artifact.verify()
            self.thaw(str((artifact.path / "process").relative_to(SHARED)))
            return "thawed"
        request = store.lease(*key, Owner(pod=str(os.getpid())))
        lease = request.try_acquire()
        try:
            self.launch()
            lease = lease or request.try_acquire()
            if must_skip_freeze(store.published(*key), None, lease is not None):
                return "went on"
            staging = store.stage(*key)
            try:
                self.freeze(str((staging.dir / "process").relative_to(SHARED)))
                return staging.publish(created_by="test", lease=lease).outcome.lower()
            finally:
                staging.discard()
        finally:
            if lease is not None:
                lease.release()

    def huge_areas(self) -> list[int]:
        """Sizes in MiB of what processes here asked huge pages for."""
        sizes, size = [], 0
        for smaps in Path("/proc").glob("[0-9]*/smaps"):
            for line in smaps.read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "Size":
                    size = int(value.split()[0]) >> 10
                elif name == "VmFlags" and "hg" in value.split():
                    sizes.append(size)
        return sizes

    def ask(self, *call: Any) -> Any:
        """Let the subject answer; the connection ends with the answer."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(GUARD_SECONDS)
            s.connect(SOCKET)
            with s.makefile("rw") as f:
                f.write(json.dumps(call) + "\n")
                f.flush()
                return json.loads(f.readline())

    def read_until(self, text: str, where: str = "stdout") -> str:
        """What the tree has written; waits until `text` is in it."""
        from vernal_worker.checkpoint.tree import readable

        assert self.tree
        fd = self.tree.stdout if where == "stdout" else self.tree.stderr
        deadline = time.monotonic() + GUARD_SECONDS
        while text not in self.output:
            assert readable(fd, max(0.0, deadline - time.monotonic())), f"no {text!r} in {self.output!r}"
            data = os.read(fd, 4096)
            assert data, f"end of output without {text!r}: {self.output!r}"
            self.output += data.decode()
        return self.output

    def members(self) -> list[int]:
        assert self.tree
        return self.tree.members()

    def wait(self) -> int | None:
        assert self.tree
        return self.tree.wait(GUARD_SECONDS)

    def kill(self) -> int | None:
        assert self.tree
        self.tree.kill()
        self.tree.close()
        return self.tree.returncode

    def processes(self) -> list[str]:
        """Everything in the pod but process 1, by state, name and PID."""
        from vernal_worker.checkpoint import procfs

        return [f"{p.state} {p.comm} {p.pid}" for p in procfs.scan().values() if p.pid != os.getpid()]

    def parent(self, pid: int) -> int:
        from vernal_worker.checkpoint import procfs

        process = procfs.read(pid)
        assert process
        return process.ppid

    def listen(self, path: str) -> None:
        """A socket outside the tree for the subject to connect to."""
        self.outside = socket.socket(socket.AF_UNIX)
        self.outside.bind(path)
        self.outside.listen()

    def listen_at(self, address: str) -> int:
        """A TCP socket outside the tree, on an address of this pod; returns its port."""
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        self.outside = socket.create_server((address, 0))
        return self.outside.getsockname()[1]

    def accept(self) -> None:
        self.accepted, _ = self.outside.accept()

    def ls(self, path: str) -> list[str]:
        return sorted(entry.name for entry in Path(path).iterdir())

    def sh(self, command: str) -> str:
        done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def take_pid(self, pid: int) -> int:
        """Occupy a PID with a process that sleeps."""
        from vernal_worker.checkpoint import pids

        pids.set_last(pid - 1)
        self.taker = subprocess.Popen(["sleep", "infinity"])
        return self.taker.pid

    def set_criu(self, criu: str) -> None:
        self.criu = criu

    def supported(self, **options: Any) -> Any:
        from vernal_worker.checkpoint import doctor

        before = time.perf_counter()
        ok, why = doctor.supported(criu=self.criu, **options)
        return [ok, why, time.perf_counter() - before]

    def checks(self, **options: Any) -> Any:
        from vernal_worker.checkpoint import doctor

        return [[c.name, c.ok, c.detail, c.remedy] for c in doctor.checks(criu=self.criu, **options)]


def _page(pid: int, address: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(4096)


def main(shared: str, criu: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    directory = os.open(shared, os.O_PATH)
    needed = [str(COVER.parents[2]), str(Path(criu).parent), sys.base_prefix]
    for place in ("/tmp", "/dev/shm", "/run"):
        subprocess.run(["sh", COVER, place, *needed], check=True)
    SHARED.mkdir()
    subprocess.run(["mount", "--bind", f"/proc/self/fd/{directory}", SHARED], check=True, pass_fds=[directory])
    os.close(directory)
    agent = Agent(criu)
    print(json.dumps(["ok", os.getpid()]), flush=True)
    for line in sys.stdin:
        method, arguments, keywords = json.loads(line)
        try:
            answer: list[Any] = ["ok", getattr(agent, method)(*arguments, **keywords)]
        except Exception as e:
            answer = ["error", {"type": type(e).__name__, "text": str(e), **getattr(e, "__dict__", {})}]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
