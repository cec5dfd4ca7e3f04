"""A key stands for a block's tokens, for all tokens before them, and for what else decides about their KV."""

from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.kv.keys import TAG_BYTES, Feature, Salt, block_keys

tokens = st.lists(st.integers(0, 200_000), max_size=40)
IMAGE = Feature("image-a", offset=6, length=4)  # in blocks 1 and 2 of 4 tokens


@given(tokens, st.integers(1, 8))
def test_there_is_one_key_for_each_full_block(prompt: list[int], size: int) -> None:
    keys = block_keys(prompt, size)
    assert len(keys) == len(prompt) // size
    assert len(set(keys)) == len(keys), "even where the tokens repeat: the prefix differs"


@given(tokens, tokens, tokens)
def test_keys_are_equal_exactly_as_far_as_the_tokens_are(shared: list[int], left: list[int], right: list[int]) -> None:
    one, two = shared + left, shared + right
    for index, (a, b) in enumerate(zip(block_keys(one, 4), block_keys(two, 4), strict=False)):
        end = (index + 1) * 4
        assert (a == b) == (one[:end] == two[:end])


def test_salts_keep_prompts_apart() -> None:
    prompt = list(range(16))
    salts = [
        Salt(),
        Salt(cache_salt="a"),
        Salt(cache_salt="b"),
        Salt(adapter="a"),
        Salt(cache_salt="a", adapter="a"),
        Salt(cache_salt=""),
        Salt(epoch="a"),
        Salt(epoch="b"),
        Salt(cache_salt="a", epoch="a"),
    ]
    first_keys = {block_keys(prompt, 4, salt)[0] for salt in salts}
    assert len(first_keys) == len(salts)


def test_multimodal_items_separate_from_where_they_begin() -> None:
    prompt = [1] * 16
    plain = block_keys(prompt, 4)
    one = block_keys(prompt, 4, Salt(features=(IMAGE,)))
    other = block_keys(prompt, 4, Salt(features=(Feature("image-b", 6, 4),)))
    moved = block_keys(prompt, 4, Salt(features=(Feature("image-a", 7, 4),)))
    assert plain[0] == one[0] == other[0] == moved[0]
    for index in (1, 2, 3):
        assert len({plain[index], one[index], other[index], moved[index]}) == 4


@given(tokens)
def test_a_key_says_which_key_is_before_it(prompt: list[int]) -> None:
    keys = block_keys(prompt, 4)
    assert [key[-TAG_BYTES:] for key in keys[1:]] == [key[:TAG_BYTES] for key in keys[:-1]]
    assert not keys or keys[0][-TAG_BYTES:] not in [key[:TAG_BYTES] for key in keys], "a first block has none"


def test_keys_do_not_change_between_releases() -> None:
    """Another key for the same prompt would empty every store at an upgrade: then raise the version in `keys._ROOT`."""
    (key,) = block_keys([1, 2, 3, 4], 4, Salt("s", "l", (Feature("i", 0, 2),)))
    assert key.hex() == "7c581728673e02cf8b56cd4c4cf74da71342b333bc76e9febd00e34278687b02"
