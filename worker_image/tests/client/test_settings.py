"""What an engine is told of its program's environment."""

import pytest
from vernal_contract.config import WorkerConfig
from vernal_worker.client.settings import environment


def config() -> WorkerConfig:
    from vernal_contract.config import CheckpointConfig, ModelConfig

    return WorkerConfig(
        pool="library",
        namespace="",
        revision="",
        model=ModelConfig(name="m", path="/m"),
        checkpoint=CheckpointConfig(),
    )


@pytest.mark.parametrize("path", ["/cv2/lib64:", "/cv2/lib64:/cv2/lib64:", "/cv2/lib64::/cv2/lib64"])
def test_imports_of_a_programs_parent_make_no_other_engine(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", path)
    assert environment(config())["LD_LIBRARY_PATH"] == "/cv2/lib64"
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert "LD_LIBRARY_PATH" not in environment(config())
