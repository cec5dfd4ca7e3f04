"""Models of other kinds: vLLM's OpenAI server over CheckpointableAsyncLLM does what it does over AsyncLLM."""

from pathlib import Path

import pytest
from reports import different, reported


def test_a_model_that_embeds(environment: None, tmp_path: Path) -> None:
    """vLLM's server and the methods, of both classes."""
    report = reported("beside_kinds.py", str(tmp_path), "embeds")
    assert different(report, "server: ") == different(report, "call: ") == {}
    ours = {name: value.get("returned") for name, value in report["ours"].items()}
    ((_, one),), _ = ours["server: one text"]
    several, _ = ours["server: several texts"]
    ((_, tokens),), _ = ours["server: token ids"]
    assert len(one) == len(tokens) > 100 and one != tokens and len(several) == 3
    assert report["ours"]["call: generate"]["raised"][0] == "VLLMValidationError"
    assert ours["server: a chat"] is None and ours["call: encode"] is not None


def test_a_model_that_has_adapters(environment: None, tmp_path: Path) -> None:
    """From the start, and loaded later."""
    report = reported("beside_kinds.py", str(tmp_path), "adapts")
    assert different(report, "server: ") == different(report, "call: ") == {}
    ours = {name: value.get("returned") for name, value in report["ours"].items()}
    assert ours["server: models then"] == ["adapter-0", "late", "tiny"]
    base, static, late = (ours[f"server: {name}"] for name in ("base", "adapter 0", "late"))
    assert None not in (base, static, late) and base != static != late != base
    for refused in ("late, unloaded", "load what is not there", "load again"):
        assert ours[f"server: {refused}"] is None, refused
    assert 7 in ours["call: list_loras"] and ours["call: generate"] is not None


def test_a_model_that_sees(environment: None, tmp_path: Path) -> None:
    """Images that vLLM's server renders, and images that the engine does."""
    pytest.importorskip("torchvision", reason="vLLM's Llava needs torchvision: make library-kinds brings it")
    report = reported("beside_kinds.py", str(tmp_path), "sees")
    assert different(report, "server: ") == different(report, "call: ") == {}
    ours = {name: value.get("returned") for name, value in report["ours"].items()}
    image = ours["server: an image"]
    assert image == ours["server: the first again"] and image is not None
    assert image not in (ours["server: another image"], ours["server: no image"])
    assert ours["call: a raw image"] == ours["call: a raw image then"] != ours["call: another raw image"]
    for refused in ("too many images", "what is no image"):
        assert ours[f"server: {refused}"] is None, refused
