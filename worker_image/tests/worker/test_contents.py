"""Real workers whose model is not what its name, its sizes and its configuration say."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from models.tiny import make_tiny_model
from vernal_contract.config import ModelConfig
from vernal_contract.identity import differences
from vernal_contract.state import FreezeOutcome
from worker_pod import ROOT, Pod, until_listens

StartPod = Callable[..., Pod]
HUB = ROOT / "worker_image/tests/supervisor/hub_server.py"
TOKEN = "hf_planted_d3b07384"


@pytest.mark.parametrize("what", ["weights of another seed", "a chat template of equal length"])
def test_a_model_of_equal_names_and_sizes_is_not_answered_for_with_the_old_one(
    creator: Pod, store: Path, model: Path, start_pod: StartPod, tmp_path: Path, what: str
) -> None:
    other = tmp_path / "model"
    shutil.copytree(model, other)
    if "seed" in what:
        make_tiny_model(other, seed=1)
    else:
        file = next(file for file in other.iterdir() if b"assistant" in file.read_bytes())
        file.write_bytes(file.read_bytes().replace(b"assistant", b"Assistant"))
    sizes = [sorted((file.name, file.stat().st_size) for file in directory.iterdir()) for directory in (model, other)]
    assert sizes[0] == sizes[1]
    pod = start_pod(store, model=other)
    pod.wait_log("event=engine_start")
    state, before = pod.state(), creator.state()
    assert (state.start_mode, state.start_reason) == ("Cold", "NoArtifact")
    lines = differences(before.identity_inputs, state.identity_inputs)
    assert [line.partition(":")[0] for line in lines] == ["contents.model"]


def test_a_gated_model_from_a_hub_is_loaded_frozen_and_thawed_without_its_token(
    start_pod: StartPod, tmp_path: Path
) -> None:
    """The hub listens in the pod."""
    hub, store = tmp_path / "hub", tmp_path / "store"
    store.mkdir()
    make_tiny_model(hub / "org/tiny")
    (hub / "org/tiny/.commit").write_text("3" * 40)
    options = {
        "model": hub,
        "model_config": ModelConfig(name="org/tiny"),
        "secrets": {"HF_TOKEN": TOKEN},
        "environment": {"HF_ENDPOINT": "http://127.0.0.1:7777", "HOME": "/tmp"},
    }
    serve = f"{sys.executable} -S {HUB} 7777 /var/lib/vernal/model {TOKEN} & {until_listens(7777)}"
    creator = start_pod(store, setup=serve, **options)
    state = creator.wait_ready()
    assert state.freeze is not None and state.freeze.outcome is FreezeOutcome.PUBLISHED, creator.log()
    assert state.identity_inputs is not None
    assert state.identity_inputs.contents["model"] == f"commit {'3' * 40}"
    scanned = 0
    for file in store.glob("artifacts/*/*/current/**/*"):
        if file.is_file():
            data = file.read_bytes()
            scanned += len(data)
            assert TOKEN.encode() not in data, file
    assert scanned > 100_000_000
    clone = start_pod(store, setup=serve, **options)
    assert clone.wait_ready().start_mode == "Restored", clone.log()
    assert clone.complete(model="org/tiny") == creator.complete(model="org/tiny")
    lost = start_pod(store, **options)  # there is no hub
    lost.wait_log("reason=ModelUnresolved")  # by its log alone: without the hub it ends
