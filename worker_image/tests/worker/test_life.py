"""A pool's life: the first worker starts cold and freezes, the others thaw and answer the same."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patience import until
from shutdown.load import WHOLE, Load
from vernal_contract.state import FreezeOutcome, Phase, StartMode
from worker_pod import PLANTED, Pod

Thawed = Callable[..., Pod]


def test_the_first_worker_starts_cold_and_publishes(creator: Pod, store: Path) -> None:
    state = creator.state()
    assert (state.phase, state.ready, state.start_mode, state.start_reason) == (
        Phase.READY,
        True,
        StartMode.COLD,
        "NoArtifact",
    )
    assert state.freeze is not None and state.freeze.outcome is FreezeOutcome.PUBLISHED, creator.log()
    assert state.artifact is not None and state.artifact.identity == state.identity
    assert {"engine_start", "oracle", "freeze", "publish", "resume", "total"} <= state.timings.keys()
    assert not list((store / "staging").iterdir())
    assert len(creator.complete()) > 0


def test_a_thawed_worker_answers_the_same(creator: Pod, thawed: Thawed, say: Callable[[str], None]) -> None:
    clone = thawed()
    state, origin = clone.state(), creator.state()
    assert state.start_reason == "Restored" and not state.restore_failures
    assert state.artifact == origin.artifact
    assert {"identity", "find", "verify", "files", "criu", "resume", "canary", "total"} <= state.timings.keys()
    assert "engine_start" not in state.timings, "vLLM was started after all"
    began = {name: (at, at + state.timings[name]) for name, at in state.begun.items()}
    assert began.keys() == state.timings.keys()
    assert 0 <= began["identity"][0] <= began["criu"][0] <= began["memory"][0] <= began["memory"][1] <= began["criu"][1]
    assert began["criu"][1] <= began["resume"][0] <= began["canary"][0] < began["total"][1]
    say(f"ready after {state.timings['total']:.1f} s, cold after {origin.timings['total']:.1f} s")
    for prompt in ("hello", "A worker that has served before"):
        expected = creator.complete(prompt)
        assert clone.complete(prompt) == expected
        text, rest = clone.stream(prompt=prompt, max_tokens=24).rest()
        assert (text, rest) == (expected, ["[DONE]"])
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}
    assert clone.stream("/v1/chat/completions", **chat).rest() == creator.stream("/v1/chat/completions", **chat).rest()
    models = [json.loads(pod.ask("GET", "/v1/models")[1])["data"][0]["id"] for pod in (clone, creator)]
    assert models == ["tiny", "tiny"]


def test_clones_are_not_twins(thawed: Thawed) -> None:
    first, second = thawed(), thawed()
    hot: dict[str, Any] = {"temperature": 1.5, "max_tokens": 48}
    assert first.complete(**hot) != second.complete(**hot)
    assert first.complete(**hot) != first.complete(**hot)
    assert first.complete(**hot, seed=7) == second.complete(**hot, seed=7)
    ids = [json.loads(pod.ask("POST", "/v1/completions", BODY)[1])["id"] for pod in (first, second)]
    assert ids[0] != ids[1]


BODY = {"model": "tiny", "prompt": "x", "max_tokens": 1}


def test_nothing_that_is_secret_or_names_the_pod_is_in_the_checkpoint(creator: Pod, store: Path) -> None:
    """Everything that the creator was told and that its clones must not know."""
    # With its "=", as in an environment: the name alone is a constant of a module that engines load.
    forbidden = [text.encode() for text in (PLANTED, creator.name, "10.1.2.3", "VERNAL_CONFIG=")]
    scanned = 0
    for file in store.glob("artifacts/*/*/current/**/*"):
        # The manifest says who made it, for people.
        if file.is_file() and file.name != "manifest.json":
            data = file.read_bytes()
            scanned += len(data)
            assert not [text for text in forbidden if text in data], file
    assert scanned > 100_000_000
    environment = Path(f"/proc/{creator.init}/environ").read_bytes()
    assert PLANTED.encode() in environment


def test_the_store_is_readable_by_its_owner_only(creator: Pod, store: Path) -> None:
    for path in store.glob("artifacts/**/*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o077 == 0, path


def test_secrets_reach_a_thawed_worker(thawed: Thawed) -> None:
    pod = thawed(secrets={"VLLM_API_KEY": "sesame"})
    assert pod.ask("POST", "/v1/completions", BODY)[0] == 401
    assert pod.ask("GET", "/health")[0] == 200
    assert len(pod.complete(key="sesame")) > 0


FORBIDDEN = {"SYS_ADMIN": 21, "SYS_PTRACE": 19, "DAC_READ_SEARCH": 2, "NET_ADMIN": 12, "SYS_CHROOT": 18, "SYS_TIME": 25}
"""What CRIU needs and an engine does not, by number (capabilities(7))."""


def test_an_engine_has_none_of_the_capabilities_that_its_supervisor_needs(creator: Pod, thawed: Thawed) -> None:
    """In no set of any process of the tree, whether it was started or thawed, and neither has what it executes."""
    for pod in (creator, thawed()):
        tree = [pid for pid, command in pod.processes().items() if pid != pod.init and "cuda/helper" not in command]
        assert len(tree) >= 3
        for pid in tree:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
                mask = int(status[name], 16)
                assert [each for each, bit in FORBIDDEN.items() if mask >> bit & 1] == [], (pid, name)
            assert status["NoNewPrivs"].strip() == "1"
        own = Path(f"/proc/{pod.init}/status").read_text()
        assert int(own.partition("CapEff:")[2].split()[0], 16) >> FORBIDDEN["SYS_ADMIN"] & 1


def test_children_do_not_hear_the_signals_that_are_meant_for_process_one(thawed: Thawed) -> None:
    pod = thawed()
    children = pod.processes().keys() - {pod.init}
    assert len(children) >= 3
    for child in children:
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGINT)
        assert deaf(child) >= {signal.SIGTERM, signal.SIGINT}, pod.processes()[child]
    assert len(pod.complete()) > 0
    assert children <= pod.processes().keys()


def deaf(pid: int) -> set[int]:
    """The signals that no thread of a process takes: blocked or ignored (proc(5))."""
    found = set(range(1, 65))
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        mask = int(fields["SigBlk"], 16) | int(fields["SigIgn"], 16)
        found &= {number for number in range(1, 65) if mask >> (number - 1) & 1}
    return found


def test_admin_port(thawed: Thawed) -> None:
    launched = time.time() - 1  # the kernel counts a process's start in ticks, from a boot time in whole seconds
    pod = thawed()
    pod.complete()
    assert [pod.admin(path)[0] for path in ("/livez", "/readyz", "/startupz")] == [200, 200, 200]
    text = pod.engine_metrics()
    assert 'vernal_worker_start_info{mode="Restored",reason="Restored"} 1.0' in text
    assert 'vernal_worker_phase_seconds{phase="criu"}' in text
    until("one answer", lambda: (pod.in_flight(), pod.state().accepted_total) == (0, 1), more=pod.log)
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    finished = [float(value) for name, value in samples.items() if name.startswith("vllm:request_success_total")]
    assert sum(finished) == 1, "the canary, and what the frozen worker did, do not count"
    assert float(samples["process_start_time_seconds"]) > launched, "the process is this pod's"
    load = Load(pod, streams=1, plain=0)  # returns when one is in flight
    load.release()
    assert load.outcomes() == {WHOLE: 1}
    until("nothing in flight", lambda: (pod.in_flight(), pod.state().accepted_total) == (0, 2), more=pod.log)
