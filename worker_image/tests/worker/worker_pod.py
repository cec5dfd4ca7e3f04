"""A worker as a pod would run it: the supervisor as process 1 of fresh PID, mount, network, UTS and IPC
namespaces.

Private /tmp, /dev/shm and /run, the store and the model at the paths of the contract, and no network but
loopback. Requests come from sockets that are made inside the pod's network namespace.
"""

import contextlib
import ctypes
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from patience import GUARD_SECONDS, until
from vernal_contract import config, names
from vernal_contract.state import WorkerState, decode

ROOT = Path(__file__).resolve().parents[3]
ENGINE_ARGS = {
    "dtype": "float32",
    "maxModelLen": 1024,
    "numGpuBlocksOverride": 64,
    "kvCacheMemoryBytes": 256 << 20,  # a share of the machine would be too little for the engine itself on a small one
    "enforceEager": True,
}
ENGINE_ENV = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}  # a tiny model, few cores
WARM = {"warm_up_seconds": GUARD_SECONDS}
"""Checkpoint settings: run one request of each kind before the freeze, however long that takes."""

HOLDING = {"schedulerCls": "vernal_worker.engine.holding.HoldingScheduler"}
"""Engine arguments with which requests can be held (`Pod.hold`)."""
PLANTED = "planted-5f2c9e71d04b"
"""A secret that the creator has and that must not be in its checkpoint."""
HELD = "/tmp/held"
"""As long as a pod has this file, requests that name it stay in flight."""
HOLD_CRIU = r"""
cat > /run/criu <<END
#!/bin/sh
case " \$* " in *" restore "*) while [ -e /run/criu-held ]; do sleep 0.1; done ;; esac
exec $VERNAL_CRIU "\$@"
END
chmod 755 /run/criu
touch /run/criu-held
export VERNAL_CRIU=/run/criu
"""
"""A setup with which a thaw gets as far as CRIU, and no further until `Pod.release_criu`."""


def until_listens(port: int) -> str:
    """A setup that waits until somebody in the pod listens on a port of IPv4: the worker does not try again."""
    return f"while ! grep -q ':{port:04X} 00000000:0000 0A' /proc/net/tcp; do sleep 0.05; done"


# For machines without iproute2: SIOCSIFFLAGS with IFF_UP and IFF_RUNNING (netdevice(7)).
_LOOPBACK_UP = (
    "python3 -c 'import fcntl, socket, struct; "
    'fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 0x41))\''
)

_PROGRAM = ROOT / "worker_image/vernal_worker/__main__.py"
_COVER = Path(__file__).resolve().parents[1] / "cover.sh"

# Sources are opened before /tmp is covered, since they may be in it.
_SETUP = f"""
set -e
hostname "$1"; shift
exec 8<"$1" 9<"$2"; shift 2
needed=$1; shift
IFS='
'
awk '{{print $5}}' /proc/self/mountinfo | grep -vE '^/($|proc|sys|dev|usr)' | sort -r | while read -r place; do
  case $needed in *"$place"*) continue ;; esac
  # Others' mounts come and go, and a pod sees none of them.
  umount -n -l "$place" 2>/dev/null || ! awk '{{print $5}}' /proc/self/mountinfo | grep -qxF "$place"
done
sh {_COVER} /var/lib $needed
mkdir -p {names.PATH_STORE} {names.PATH_MODEL}
mount -n --bind /proc/self/fd/8 {names.PATH_STORE}
mount -n --bind /proc/self/fd/9 {names.PATH_MODEL}
exec 8<&- 9<&-
for place in /tmp /run /dev/shm; do sh {_COVER} "$place" $needed; done
mkdir -p {names.PATH_RUN}
ip link set lo up 2>/dev/null || {_LOOPBACK_UP}
mount -n --bind /proc/sys /proc/sys
mount -n -o remount,bind,ro /proc/sys  # as a container runtime does
unset IFS
eval "$1"; shift
exec "$@"
"""


def in_a_pod(
    name: str, store: Path, model: Path, setup: str = "", *, needed: Sequence[Path] = (), namespaces: Sequence[str] = ()
) -> list[str]:
    """The beginning of a command whose rest runs as process 1 of namespaces like a container's.

    Args:
        setup: shell commands to run there first.
        needed: directories that it can see besides this checkout and Python.
        namespaces: more options of unshare(1).
    """
    usual = ("--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net", "--uts", "--ipc")
    seen = "\n".join(map(str, (ROOT, sys.base_prefix, *needed)))
    return ["unshare", *usual, *namespaces, "sh", "-c", _SETUP, "sh", name, str(store), str(model), seen, setup]


CACHE_MOUNTED = f"""
mkdir -p {names.PATH_NODE_CACHE}
mount -n --bind "$cache" {names.PATH_NODE_CACHE}
mount -n -o remount,bind,ro {names.PATH_NODE_CACHE}
umount -n -l "$cache" 2>/dev/null || true  # the way to it that this test needed
"""
"""A setup with the directory that the variable `cache` names as a node cache, mounted as the operator has it."""


class Pod:
    """A running worker. `store`, `model` and `cache` (the node's, if there is one) are directories of this machine;
    `uptime`: how many seconds longer the pod's host seems to have been up than this machine (a time namespace)."""

    def __init__(
        self,
        name: str,
        log: Path,
        store: Path,
        model: Path,
        criu: Path,
        *,
        setup: str = "",
        uptime: int = 0,
        cache: Path | None = None,
        secrets: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.name = name
        self.log_path = log
        self.store = store
        secrets = secrets or {}
        # No worker of a test gives up because the machine is slow.
        patient = {"freeze_timeout_seconds": GUARD_SECONDS, "thaw_timeout_seconds": GUARD_SECONDS}
        # Warming up is 20 s of a core, and most pods are asked for little: a test that wants it says WARM.
        checkpoint = config.CheckpointConfig(**patient | {"warm_up_seconds": 0.0} | settings.pop("checkpoint", {}))
        settings.setdefault("keep_alive_seconds", GUARD_SECONDS)  # no connection goes because a test was slow
        drain = config.DrainConfig(**{"propagation_seconds": 0.5, **settings.pop("drain", {})})
        self.config = config.WorkerConfig(
            pool="tests",
            namespace="default",
            revision="r1",
            model=settings.pop("model_config", config.ModelConfig(name="tiny", path=names.PATH_MODEL)),
            engine_args=ENGINE_ARGS | settings.pop("engine_args", {}),
            engine_env=ENGINE_ENV | settings.pop("engine_env", {}),
            secret_env=tuple(secrets),
            checkpoint=checkpoint,
            drain=drain,
            **settings,
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "VERNAL_CRIU": str(criu),
            names.ENV_CONFIG: config.encode(self.config),
            names.ENV_POD_NAME: name,
            names.ENV_POD_NAMESPACE: "default",
            names.ENV_POD_IP: "10.1.2.3",
            **{name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ},
            **(environment or {}),
            **secrets,
        }
        clocks = ("--time", "--boottime", str(uptime), "--monotonic", str(uptime)) if uptime else ()
        needed = [criu.parent]
        if cache is not None:
            needed.append(cache)
            setup = f"cache={cache}\n{CACHE_MOUNTED}\n{setup}"
            environment[names.ENV_NODE_CACHE] = str(1 << 40)
        place = in_a_pod(name, store, model, setup, needed=needed, namespaces=clocks)
        self.started = time.monotonic()
        with log.open("wb") as output:
            self._outer = subprocess.Popen(
                [*place, sys.executable, "-S", "-P", str(_PROGRAM)],  # as the images start it
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    # --- process ---

    @property
    def init(self) -> int:
        """This machine's PID of the pod's process 1."""
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")

        def first() -> str | None:
            assert self.alive(), f"the pod has no process 1:\n{self.log()}"
            return next(iter(children.read_text().split()), None)

        return int(until("the pod's process 1", first, more=self.log))

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.kill(self.init, number)

    def wait(self) -> int:
        """The worker's exit code."""
        try:
            return self._outer.wait(GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not exit within {GUARD_SECONDS:.0f} s:\n{self.log()}") from None

    def alive(self) -> bool:
        return self._outer.poll() is None

    def end(self) -> None:
        """Take the pod away, whatever it does; returns when the kernel has ended all processes of its PID namespace."""
        init = -1
        with contextlib.suppress(AssertionError, OSError):
            init = os.pidfd_open(self.init) if self.alive() else -1
        self._outer.kill()
        self._outer.wait()
        if init >= 0:
            assert select.select([init], [], [], GUARD_SECONDS)[0], f"{self.name} does not end"
            os.close(init)

    def processes(self) -> dict[int, str]:
        """Everything in the pod's PID namespace: this machine's PID and the command line."""
        namespace = Path(f"/proc/{self.init}/ns/pid").readlink()
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "ns/pid").readlink() == namespace:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def files(self, directory: str) -> list[str]:
        """Names in a directory of the pod."""
        return sorted(file.name for file in Path(f"/proc/{self.init}/root{directory}").iterdir())

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_log(self, text: str) -> None:
        """Wait until the worker has logged `text`."""

        def logged() -> bool:
            alive = self.alive()  # before the log is read: what it said last counts, too
            found = text in self.log()
            assert found or alive, f"it ended without {text!r} in the log:\n{self.log()}"
            return found

        until(f"{text!r} in the log", logged, more=self.log)

    # --- requests that stay in flight ---

    def hold(self) -> None:
        """From now on requests that say `"vllm_xargs": {"hold": HELD}` get their first token and then no more, until
        `release`. Needs the engine arguments `HOLDING`."""
        Path(f"/proc/{self.init}/root{HELD}").touch()

    def release(self) -> None:
        """Let what is held go on."""
        Path(f"/proc/{self.init}/root{HELD}").unlink(missing_ok=True)

    def wait_criu(self) -> None:
        """Wait until a thaw is held by `HOLD_CRIU`."""
        until(
            "CRIU to be called",
            lambda: any("/run/criu restore" in command for command in self.processes().values()),
            more=self.log,
        )

    def release_criu(self) -> None:
        """Let what `HOLD_CRIU` holds go on."""
        Path(f"/proc/{self.init}/root/run/criu-held").unlink()

    def in_flight(self) -> int:
        """Requests that the worker has accepted and not answered."""
        return self.state().in_flight

    # --- HTTP ---

    def connect(self, port: int, timeout: float = GUARD_SECONDS) -> socket.socket:
        """A TCP connection to the pod's loopback. Raises what `socket.connect` raises, and OSError if it has ended."""
        result: list[socket.socket | OSError] = []

        def make() -> None:
            try:
                result.append(self._connect_here(port, timeout))
            except AssertionError as error:  # there is no process 1
                result.append(OSError(str(error)))
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if isinstance(result[0], OSError):
            raise result[0]
        return result[0]

    def _connect_here(self, port: int, timeout: float) -> socket.socket:
        """Moves the calling thread to the pod's network (setns(2)); the socket stays where it was made."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{self.init}/ns/net") as namespace:
            if libc.setns(namespace.fileno(), 0x40000000) != 0:  # CLONE_NEWNET
                raise OSError(ctypes.get_errno(), "setns")
        connection = socket.socket()
        try:
            connection.settimeout(timeout)
            connection.connect(("127.0.0.1", port))
        except OSError:
            connection.close()
            raise
        return connection

    def http(self, port: int = names.PORT_SERVING, timeout: float = GUARD_SECONDS) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("pod", port, timeout=timeout)
        connection.sock = self.connect(port, timeout)
        return connection

    def ask(
        self, method: str, path: str, body: Any = None, *, port: int = names.PORT_SERVING, key: str | None = None
    ) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body."""
        with contextlib.closing(self.http(port)) as connection:
            headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def admin(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        return self.ask(method, path, port=names.PORT_ADMIN)

    def engine_metrics(self) -> str:
        """/metrics with those of the engine, which are left out where it takes long to tell them."""

        def whole() -> str:
            text = self.admin("/metrics")[1].decode()
            return text if re.search("^vllm:", text, re.MULTILINE) else ""

        return until("the engine's metrics", whole, more=self.log)

    def state(self) -> WorkerState:
        return decode(self.admin("/state")[1])

    def wait_ready(self) -> WorkerState:
        """Wait until /readyz says yes; the state then."""

        def ready() -> WorkerState | None:
            assert self.alive(), f"the worker exited with {self.wait()}:\n{self.log()}"
            with contextlib.suppress(OSError):
                if self.admin("/readyz")[0] == 200:
                    return self.state()
            return None

        return until("a ready worker", ready, more=self.log)

    def complete(self, prompt: str = "hello", *, key: str | None = None, **parameters: Any) -> str:
        """The text of one completion; greedy unless told otherwise."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        status, answer = self.ask("POST", "/v1/completions", body | parameters, key=key)
        assert status == 200, answer
        text: str = json.loads(answer)["choices"][0]["text"]
        return text

    def stream(self, path: str = "/v1/completions", **body: Any) -> "Stream":
        """Begin a streamed answer; returns when its headers are there."""
        greedy = {"model": "tiny", "temperature": 0, "ignore_eos": True, "stream": True}
        return Stream(self.http(), path, greedy | body)


class Stream:
    """A streamed answer, read event by event."""

    def __init__(self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> None:
        self._connection = connection
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        self._answer = connection.getresponse()
        self.status = self._answer.status

    def events(self) -> Iterator[str]:
        """The data of each event, `[DONE]` included."""
        for line in self._answer:
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ").strip().decode()

    def close(self) -> None:
        """Go away, whatever has not come yet."""
        self._answer.close()
        self._connection.close()

    def rest(self) -> tuple[str, list[str]]:
        """Read to the end: the text, and what came that was no piece of text."""
        text, other = "", []
        for event in self.events():
            piece = json.loads(event) if event != "[DONE]" else None
            if piece and "choices" in piece:
                choice = piece["choices"][0] if piece["choices"] else {}
                text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            else:
                other.append(event)
        self._connection.close()
        return text, other
