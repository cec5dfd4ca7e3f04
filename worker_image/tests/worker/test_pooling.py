"""A model that does not generate is frozen, thawed and checked by what its task gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vernal_contract.state import FreezeOutcome
from worker_pod import Pod

StartPod = Callable[..., Pod]


def test_embeddings_are_equal_after_a_thaw(start_pod: StartPod, tmp_path: Path) -> None:
    def ask(pod: Pod) -> Any:
        status, answer = pod.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "hello"})
        assert status == 200, answer
        return json.loads(answer)["data"][0]["embedding"]

    arguments = {"runner": "pooling", "convert": "embed", "schedulerCls": None}
    creator = start_pod(tmp_path, engine_args=arguments)
    state = creator.wait_ready()
    assert state.freeze is not None and state.freeze.outcome is FreezeOutcome.PUBLISHED, creator.log()
    clone = start_pod(tmp_path, engine_args=arguments)
    assert clone.wait_ready().start_mode == "Restored", clone.log()
    found = ask(clone)
    assert len(found) == 256
    assert found == pytest.approx(ask(creator), rel=1e-5)
    assert '"vectors":[[' in next(tmp_path.glob("artifacts/*/*/current/oracle.json")).read_text()
