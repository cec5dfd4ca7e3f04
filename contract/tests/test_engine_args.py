"""Engine arguments mean one thing, whoever reads them and however often."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_contract.engine_args import OWNED, EngineArgumentError, canonical, spellings

WORDS = st.sampled_from(["a", "max-len", "kvTransferConfig", "kv_transfer_config", "x", "served_model_name"])
NAMES = st.builds(
    lambda dashes, words, plus: dashes + ".".join(words) + plus,
    st.sampled_from(["", "--"]),
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from(["", "+"]),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
VALUES = JSON | JSON.map(json.dumps) | st.lists(JSON.map(json.dumps), max_size=3)


def _canonical(arguments: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return canonical(arguments)
    except EngineArgumentError as error:
        assert str(error).startswith("engineArgs.")
        return None


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_was_read_once_reads_the_same_again(arguments: dict[str, Any]) -> None:
    """A library reads arguments before its engine's keeper does."""
    if (found := _canonical(arguments)) is not None:
        assert canonical(found) == found
        assert not [name for name in found if "." in name or name != name.replace("-", "_")]


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.randoms())
def test_order_does_not_matter(arguments: dict[str, Any], random: Any) -> None:
    shuffled = list(arguments.items())
    random.shuffle(shuffled)
    assert _canonical(dict(shuffled)) == _canonical(arguments)


@pytest.mark.parametrize("name", OWNED)
def test_what_is_ours_is_ours_in_every_form(name: str) -> None:
    for spelling in spellings(name):
        for form in (spelling, f"--{spelling}", f"{spelling}.x", f"{spelling}.x+"):
            with pytest.raises(EngineArgumentError, match="cannot be set"):
                canonical({form: None})
