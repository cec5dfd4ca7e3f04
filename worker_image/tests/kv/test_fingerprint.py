"""The fingerprint tells apart all that would compute other bytes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from vernal_worker.kv.fingerprint import UnidentifiableError, directory_identity, files_state, fingerprint


def test_every_fact_counts_and_their_order_does_not() -> None:
    facts = {"model": "m", "dtype": "bfloat16", "tensor_parallel": 2, "layers": [{"shape": [1, 16]}]}
    assert fingerprint(facts) == fingerprint(dict(reversed(facts.items())))
    changed = [facts | {name: "other"} for name in facts]
    assert len({fingerprint(facts), *map(fingerprint, changed)}) == len(facts) + 1


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"hidden_size": 8}))
    save_file({"a": np.arange(5000, dtype=np.float32)}, directory / "model.safetensors")
    return directory


def test_a_directory_keeps_its_identity(model: Path, tmp_path: Path) -> None:
    first = directory_identity(model)
    (model / "README.md").write_text("not part of the model")
    model.rename(tmp_path / "moved")
    assert directory_identity(tmp_path / "moved") == first


def _resized(model: Path) -> None:
    save_file({"a": np.arange(5001, dtype=np.float32)}, model / "model.safetensors")


def _edited_in_place(model: Path) -> None:
    """Same name, same size, one value: only the modification time shows it for sure."""
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01\x02\x03\x04")
    os.utime(model / "model.safetensors", ns=(1, (model / "model.safetensors").stat().st_mtime_ns + 1))


def _other_config(model: Path) -> None:
    status = (model / "config.json").stat()
    (model / "config.json").write_text(json.dumps({"hidden_size": 9}))
    os.utime(model / "config.json", ns=(status.st_atime_ns, status.st_mtime_ns))


def _more_files(model: Path) -> None:
    save_file({"b": np.zeros(4, dtype=np.float32)}, model / "model-2.safetensors")


@pytest.mark.parametrize("change", [_resized, _edited_in_place, _other_config, _more_files])
def test_a_changed_model_has_another_identity(model: Path, change: object) -> None:
    before = directory_identity(model)
    change(model)  # type: ignore[operator]
    assert directory_identity(model) != before


def test_a_snapshot_of_the_hub_is_known_by_its_blobs(tmp_path: Path) -> None:
    def snapshot(cache: Path, blob: str) -> Path:
        (cache / "blobs").mkdir(parents=True)
        (cache / "snapshots/abc").mkdir(parents=True)
        (cache / "blobs" / blob).write_text("{}")
        (cache / "snapshots/abc/model.safetensors").symlink_to(cache / "blobs" / blob)
        return cache / "snapshots/abc"

    one, two, other = (
        snapshot(tmp_path / name, blob) for name, blob in [("1", "e" * 64), ("2", "e" * 64), ("3", "f" * 64)]
    )
    assert directory_identity(one) == directory_identity(two) != directory_identity(other)
    assert directory_identity(one).startswith("hub:")


def test_a_directory_without_weights_says_nothing_about_them(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(UnidentifiableError, match=r"no weights.*model_digest"):
        directory_identity(model)
    assert directory_identity(model, weights=False)


@pytest.mark.parametrize("change", [_resized, _edited_in_place, _more_files])
def test_the_state_of_files_shows_a_change(model: Path, change: object) -> None:
    before = files_state(model)
    assert files_state(model) == before
    change(model)  # type: ignore[operator]
    assert files_state(model) != before


def test_no_directory_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnidentifiableError, match="model_digest"):
        directory_identity(tmp_path / "absent")
