"""What a program and its environment say, and what its engine is told of it."""

import os
from pathlib import Path

import pytest
from vernal_contract.config import WorkerConfig
from vernal_worker.client.messages import How
from vernal_worker.client.settings import ENV_CHECKPOINT_DIR, ENV_START, choice, environment


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
def test_imports_of_a_programs_parent_make_no_other_engine(path: str) -> None:
    assert environment(config(), {"LD_LIBRARY_PATH": path, "A": "b"}) == {"LD_LIBRARY_PATH": "/cv2/lib64", "A": "b"}
    assert environment(config(), {"A": "b"}) == {"A": "b"}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ENV_START, ENV_CHECKPOINT_DIR):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("start", "directory", "variables", "expected"),
    [
        (None, None, {}, (How.COLD, None)),
        (None, "/a", {}, (How.AUTO, Path("/a"))),
        ("auto", None, {}, (How.COLD, None)),
        ("cold", "/a", {}, (How.COLD, Path("/a"))),
        (How.THAW, "/a", {}, (How.THAW, Path("/a"))),
        ("disabled", None, {}, (How.DISABLED, None)),
        (None, None, {ENV_START: "disabled"}, (How.DISABLED, None)),
        (None, "/a", {ENV_START: "thaw"}, (How.THAW, Path("/a"))),
        ("cold", None, {ENV_START: "disabled"}, (How.COLD, None)),
        (None, None, {ENV_CHECKPOINT_DIR: "/b"}, (How.AUTO, Path("/b"))),
        (None, "/a", {ENV_CHECKPOINT_DIR: "/b"}, (How.AUTO, Path("/a"))),
        (None, None, {ENV_START: "", ENV_CHECKPOINT_DIR: ""}, (How.COLD, None)),
    ],
)
def test_how_to_get_an_engine(
    start: str | None,
    directory: str | None,
    variables: dict[str, str],
    expected: tuple[How, Path | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert choice(start, directory) == expected


def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="start is 'warm': it must be one of cold, thaw, auto, disabled"):
        choice("warm", None)
    with pytest.raises(ValueError, match="start='thaw' needs checkpoint_dir or VERNAL_CHECKPOINT_DIR"):
        choice("thaw", None)
    monkeypatch.setenv(ENV_START, "off")
    with pytest.raises(ValueError, match="VERNAL_START is 'off'"):
        choice(None, None)


def test_a_directory_that_is_not_there_is_not_made_to_thaw_from_it(tmp_path: Path) -> None:
    from vernal_contract.config import CheckpointConfig
    from vernal_worker.client.host import EngineFailedError
    from vernal_worker.client.settings import frozen_config

    place = tmp_path / "none"
    with pytest.raises(EngineFailedError, match=r"NoArtifact: there is no directory .*none"):
        frozen_config(CheckpointConfig(store_path=str(place)))
    assert not place.exists()


def test_storage_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO that nobody writes to stands for it."""
    from vernal_contract.config import CheckpointConfig
    from vernal_worker.client import settings
    from vernal_worker.client.host import EngineFailedError

    key = tmp_path / "artifacts" / ("a" * 64) / ("b" * 16)
    place = key / "20260101T000000Z-00000000"
    place.mkdir(parents=True)
    (key / "current").symlink_to(place.name)
    os.mkfifo(place / "manifest.json")
    monkeypatch.setattr(settings, "STORAGE_SECONDS", 0.2)
    with pytest.raises(EngineFailedError, match=r"StoreSlow: the storage has not answered for 0\.2 s"):
        settings.frozen_config(CheckpointConfig(store_path=str(tmp_path)))
    os.close(os.open(place / "manifest.json", os.O_RDWR | os.O_NONBLOCK))
