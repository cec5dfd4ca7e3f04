"""A thawed worker's front door, with clients as nobody wants them."""

import http.client
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

from patience import until
from vernal_contract import names
from vernal_contract.config import ModelConfig, WorkerConfig
from vernal_worker.engine import warm
from worker_pod import Pod

Thawed = Callable[..., Pod]


def burst(pod: Pod, count: int, port: int = names.PORT_SERVING) -> list[socket.socket]:
    """Connections that send nothing."""
    return [pod.connect(port) for _ in range(count)]


def test_a_burst_of_connections_does_not_cut_the_supervisor_off(thawed: Thawed) -> None:
    """More than the 1,024 descriptors that the engine may have (`first_workers`), on both ports."""
    pod = thawed()
    expected = pod.complete()
    idle = burst(pod, 1100) + burst(pod, 1100, names.PORT_ADMIN)
    assert pod.admin("/readyz")[0] == pod.admin("/livez")[0] == 200
    assert pod.complete() == expected
    assert "vernal_http_connections " in pod.engine_metrics()
    pod.signal()
    assert pod.wait() == 0, pod.log()
    for connection in idle:
        connection.close()


def compiled(pod: Pod) -> set[str]:
    """What torch's compiler has written in the pod: the cache travels with the checkpoint."""
    root = Path(f"/proc/{pod.init}/root/run/vernal/cache/torchinductor")
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_nothing_compiles_in_a_thawed_worker(thawed: Thawed) -> None:
    """Compiling stops the engine, and so everybody's requests: for 15 s when the first client wants logprobs."""
    pod = thawed()
    before = compiled(pod)
    assert before, "something was compiled before the freeze"
    for kind, (path, body) in warm.requests("tiny", []).items():
        assert pod.ask("POST", path, body)[0] in (200, 400, 404), kind
    assert compiled(pod) == before


def test_the_warm_up_does_not_choose_the_grammars_backend(thawed: Thawed) -> None:
    """vLLM has one backend in a process's life, of the first request that wants one: `auto` finds for each schema one
    that obeys all of it. A plain start obeys this one, with guidance; xgrammar, which warms up, ignores a `maxLength`
    beside a pattern."""
    schema = {"type": "string", "pattern": "^[a-j]+$", "maxLength": 3}
    body = {"model": "tiny", "prompt": "a word:", "max_tokens": 64, "temperature": 1.0, "seed": 1, "n": 16}
    status, answer = thawed().ask("POST", "/v1/completions", body | {"structured_outputs": {"json": schema}})
    assert status == 200, answer
    found = [json.loads(choice["text"]) for choice in json.loads(answer)["choices"]]
    assert len(found) == 16 and all(re.fullmatch("[a-j]{1,3}", word) for word in found), found


def test_idle_connections_outlive_the_usual_pools(thawed: Thawed) -> None:
    """These keep theirs for 60 to 90 s: a worker that closes first resets whoever asks at that moment."""
    usual = WorkerConfig(pool="p", namespace="n", revision="1", model=ModelConfig(name="m", path="/m"))
    assert usual.keep_alive_seconds > 90
    pod = thawed(keep_alive_seconds=0.2)

    def answered() -> http.client.HTTPConnection | None:
        connection = pod.http()
        try:
            connection.request("GET", "/v1/models")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return None  # it asked too late: those seconds count from the accept, too
        return connection

    connection = until("an answer", answered, more=pod.log)
    assert connection.sock.recv(1) == b"", "what the pool says reaches the engine"
