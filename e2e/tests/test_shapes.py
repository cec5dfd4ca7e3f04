"""Models of real shapes: what is written is what vLLM's Qwen3 looks for."""

import json
from pathlib import Path

import pytest
from models import shapes
from safetensors import safe_open


def test_weights_are_in_files_that_the_index_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_FILE", 80_000_000)
    shapes.make_shape("small", tmp_path)
    size = shapes.make_weights("small", tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(tmp_path / file, framework="numpy") as content:
            for name in content.keys():  # noqa: SIM118  # it is no mapping
                assert index["weight_map"][name] == file
                found[name] = tuple(content.get_slice(name).get_shape())
    assert found == shapes.tensors("small")
    assert len(set(index["weight_map"].values())) == 3
    assert size == index["metadata"]["total_size"] > 150_000_000
    shapes.make_shape("small", tmp_path)
    assert not list(tmp_path.glob("*.safetensors*")), "without weights there are none"


def test_8b_has_8_billion_parameters() -> None:
    assert sum(map(shapes._bytes, shapes.tensors("8b").values())) / 2 == pytest.approx(8.2e9, rel=0.01)
