"""What plain `vllm serve` does when it is told to stop, as process 1 of a container like a worker's: measured, and
bounded by time-outs, since in several cases it never ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from patience import GUARD_SECONDS
from vernal_contract import names
from vernal_worker.supervisor import engine_args
from worker_pod import ENGINE_ARGS, ENGINE_ENV, HOLDING, Pod, in_a_pod

from shutdown.load import WHOLE, Load, tell
from shutdown.promises import Findings
from shutdown.workers import Workers

PATIENCE = 60.0
"""After so many seconds without a sign of life it hangs. What is found here is shown, and decides nothing."""

DRAINS = "EngineCore: start mode="
"""What vLLM logs when it has taken notice of a signal."""


class Server(Pod):
    """`vllm serve` where a worker would have its supervisor."""

    def __init__(
        self,
        made: Workers,
        name: str,
        *options: str,
        setup: str = "",
        extra: dict[str, Any] | None = None,
        store: Path | None = None,
    ) -> None:
        self.name, self.log_path, self.store = name, made.log(name), store or made.store
        arguments = engine_args.options(engine_args.canonical(ENGINE_ARGS | HOLDING | (extra or {})))
        command = [
            *in_a_pod(name, self.store, made.model, setup),
            *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", names.PATH_MODEL),
            *("--served-model-name", "tiny", "--port", str(names.PORT_SERVING), *arguments, *options),
        ]
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            **ENGINE_ENV,
            "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(int(GUARD_SECONDS)),  # no connection goes because a machine is slow
            "PYTHONDONTWRITEBYTECODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with self.log_path.open("wb") as output:
            self._outer = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        made.keep(self)

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + GUARD_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/health")[0] == 200:
                    return
            if not self.alive() or time.monotonic() > deadline:
                end = "\n".join(self.log().splitlines()[-20:])
                raise RuntimeError(f"vllm serve did not become healthy; the end of {self.log_path}:\n{end}")
            time.sleep(0.2)

    def in_flight(self) -> int:
        """Requests that the engine runs."""
        found = re.search(
            r"^vllm:num_requests_running\S* (\S+)$", self.ask("GET", "/metrics")[1].decode(), re.MULTILINE
        )
        return int(float(found[1])) if found else 0

    def ended(self, timeout: float = PATIENCE) -> tuple[float, int | None]:
        """Seconds until it ended and its exit code, or None if it did not."""
        began = time.monotonic()
        try:
            code = self._outer.wait(timeout)
        except subprocess.TimeoutExpired:
            return timeout, None
        return time.monotonic() - began, code


def _healthy(made: Workers, name: str, *options: str, **more: Any) -> Server:
    server = Server(made, f"alone-{name}", *options, **more)
    server.wait_healthy()
    return server


def _exit(seconds: float, code: int | None) -> str:
    return f"no exit within {seconds:.0f} s" if code is None else f"exit {code} after {seconds:.1f} s"


@contextlib.contextmanager
def _shm(server: Server) -> Iterator[Callable[[], list[str]]]:
    directory = os.open(f"/proc/{server.init}/root/dev/shm", os.O_RDONLY)
    try:
        yield lambda: sorted(path.name for path in Path(f"/proc/self/fd/{directory}").iterdir())
    finally:
        os.close(directory)


def idle(made: Workers, found: Findings) -> None:
    server = _healthy(made, "idle")
    server.signal()
    seconds, code = server.ended()
    found.add("idle", code == 0, _exit(seconds, code))


def sigint(made: Workers, found: Findings) -> None:
    server = _healthy(made, "sigint")
    server.signal(signal.SIGINT)
    seconds, code = server.ended()
    found.add("sigint", code == 0, f"idle: {_exit(seconds, code)}")


def default(made: Workers, found: Findings) -> None:
    """No option, under load."""
    server = _healthy(made, "default")
    load = Load(server, silence=PATIENCE)
    with _shm(server) as shm:
        server.signal()
        seconds, code = server.ended()
        if code is None:
            server.signal()
            after, code = server.ended()
            found.add("second", code is not None, f"by default: {_exit(after, code)} of it")
        if code is None:
            server.signal()
            after, code = server.ended()
            found.add("third", code is not None, f"by default: {_exit(after, code)} of it")
        outcomes = load.outcomes()
        found.add("finish", outcomes == {WHOLE: len(load.asked)}, f"by default: {tell(outcomes)}")
        found.add("exit", code == 0, f"by default: {_exit(seconds, code)}")
        how = "the SIGKILL that ends it" if server.alive() else "its exit under load"
        server.end()
        found.add("clean", shm() == [], f"after {how}: {', '.join(shm()) or 'nothing'} in /dev/shm")


def patient(made: Workers, found: Findings) -> None:
    option = "--shutdown-timeout 60"
    server = _healthy(made, "patient", *option.split())
    load = Load(server, silence=PATIENCE)
    kept = server.http()
    kept.request("GET", "/v1/models")
    kept.getresponse().read()
    server.signal()
    server.wait_log(DRAINS)
    health = server.ask("GET", "/health")[0]
    found.add("observable", health == 503, f"{option}: /health {health}, no readiness, no time left")
    new = server.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 1})[0]
    found.add("straggling", new in (200, 503), f"{option}: HTTP {new}")
    kept.request("POST", "/v1/completions", json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1}),
                 {"Content-Type": "application/json"})  # fmt: skip
    again = kept.getresponse()
    retry = again.headers["Retry-After"]
    text = f"{option}: new connections are accepted; on an open one HTTP {again.status}, Retry-After {retry}"
    found.add("closed", again.status == 503 and retry is not None, text)
    still = load.running()
    load.release()
    outcomes = load.outcomes()
    seconds, code = server.ended()
    found.add("finish", outcomes == {WHOLE: len(load.asked)}, f"{option}: {tell(outcomes)} ({still} ran on)")
    found.add("exit", code == 0, f"{option}: {_exit(seconds, code)}")


def limit(made: Workers, found: Findings) -> None:
    option = "--shutdown-timeout 2"
    server = _healthy(made, "limit", *option.split())
    load = Load(server, streams=6, plain=2, silence=PATIENCE)
    server.signal()
    seconds, code = server.ended()
    outcomes = load.outcomes()
    good = code is not None and "hangs" not in outcomes
    found.add("bounded", good, f"{option}, exceeded: {tell(outcomes)}; {_exit(seconds, code)}")


def group(made: Workers, found: Findings) -> None:
    option = "--shutdown-timeout 60"
    server = _healthy(made, "group", *option.split())
    load = Load(server, streams=3, plain=1, silence=PATIENCE)
    for pid in sorted(server.processes(), reverse=True):
        os.kill(pid, signal.SIGTERM)
    server.wait_log(DRAINS)
    load.release()
    outcomes = load.outcomes()
    seconds, code = server.ended()
    found.add(
        "group", outcomes == {WHOLE: 4}, f"{option}, SIGTERM to each process: {tell(outcomes)}; {_exit(seconds, code)}"
    )


def died(made: Workers, found: Findings) -> None:
    server = _healthy(made, "died")
    load = Load(server, streams=3, plain=1, silence=PATIENCE)
    (pid,) = [pid for pid, command in server.processes().items() if "VLLM::EngineCore" in command]
    os.kill(pid, signal.SIGKILL)
    seconds, code = server.ended()
    outcomes = load.outcomes()
    good = code not in (None, 0) and "hangs" not in outcomes
    found.add("died", good, f"EngineCore killed: {_exit(seconds, code)}, {tell(outcomes)}")


def hung(made: Workers, found: Findings) -> None:
    option = "--shutdown-timeout 4"
    server = _healthy(made, "hung", *option.split())
    Load(server, streams=3, plain=1, silence=PATIENCE)
    for pid, command in server.processes().items():
        if "VLLM::" in command:
            os.kill(pid, signal.SIGSTOP)
    server.signal()
    seconds, code = server.ended()
    found.add("hung", code is not None, f"{option}, EngineCore and Worker stopped: {_exit(seconds, code)}")


def stuck(made: Workers, found: Findings) -> None:
    server = _healthy(made, "stuck")
    for pid, command in server.processes().items():
        if "VLLM::EngineCore" in command:
            os.kill(pid, signal.SIGSTOP)
    server.signal()
    seconds, code = server.ended()
    found.add("stuck", code is not None, f"EngineCore stopped while idle: {_exit(seconds, code)}")


def starting(made: Workers, found: Findings) -> None:
    server = Server(made, "alone-starting")
    server.wait_log("Starting to load model")
    server.signal()
    seconds, code = server.ended()
    found.add("starting", code is not None, f"while the engine loads: {_exit(seconds, code)}")


SCENARIOS: dict[str, Callable[[Workers, Findings], None]] = {
    scenario.__name__: scenario
    for scenario in (idle, sigint, default, patient, limit, group, died, hung, stuck, starting)
}
