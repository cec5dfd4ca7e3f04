"""Objects of any depth are read, and what is nested deeper than any use is not."""

import json
from typing import Any

import msgspec
import pytest
from fuzz.documents import nested
from hypothesis import given
from hypothesis import strategies as st
from vernal_contract.decoding import LEVELS, too_deep
from vernal_operator import nesting
from vernal_operator.observe.views import POOLS_READER

DEPTH = 10_000
"""That Kubernetes keeps."""

documents = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(documents, st.integers(0, 5), st.booleans())
def test_what_is_cut_is_what_is_deeper(document: Any, levels: int, ascii: bool) -> None:
    written = json.dumps(document, ensure_ascii=ascii).encode()
    assert json.loads(nesting.cut(written, levels)) == flat(document, levels)


def flat(value: Any, levels: int) -> Any:
    if isinstance(value, list | dict) and levels == 0:
        return None
    if isinstance(value, list):
        return [flat(inner, levels - 1) for inner in value]
    return {name: flat(inner, levels - 1) for name, inner in value.items()} if isinstance(value, dict) else value


def page(deep: bytes) -> bytes:
    """Two pools, of which the first is somebody's who means no good."""
    spec = '{"image":"i","model":{"name":"m"},"checkpoint":{"policy":"Disabled"},"engineArgs":{"x":%s}}'
    item = '{"metadata":{"name":"%s","namespace":"ns"},"spec":' + spec + "}"
    return (f'{{"items":[{item % ("evil", deep.decode())},{item % ("good", "[]")}]}}').encode()


def pools(data: bytes) -> list[Any]:
    found = nesting.decoder(dict[str, Any])(data)
    return [POOLS_READER.convert(item) for item in found["items"]]


@pytest.mark.parametrize("levels", [LEVELS + 1, 300, 900, DEPTH])
def test_a_pool_without_end_is_refused_by_the_field_s_name_and_the_next_one_is_read(levels: int) -> None:
    evil, good = pools(page(b"[" * levels + b"]" * levels))
    assert evil.view.spec is None and evil.view.spec_error.startswith("spec.engineArgs: must not be nested deeper than")
    assert good.view.spec is not None


def test_what_is_no_json_is_so_whatever_its_depth() -> None:
    with pytest.raises(msgspec.DecodeError):
        pools(page(b"[" * DEPTH))


@pytest.mark.parametrize("levels", [1, LEVELS, LEVELS + 1, DEPTH])
def test_too_deep_is_counted_from_the_outermost_list(levels: int) -> None:
    assert too_deep(nested(levels)) is (levels > LEVELS)
