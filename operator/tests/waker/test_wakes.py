"""What a waker keeps of the wakes that it did."""

from vernal_contract.wakes import Wake
from vernal_waker.wakes import KEPT, KEPT_SECONDS, Wakes

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


def test_wakes_are_kept_for_a_while_and_a_bounded_number() -> None:
    now = 0.0
    wakes = Wakes(lambda: now)
    for version in range(1, KEPT + 3):
        wakes.add(Wake("u" if version % 2 else "v", version, TRACE))
    mine = [wake.version for wake in wakes.of("u")]
    assert mine == list(range(3, KEPT + 3, 2)) and not list(wakes.of("")), "the newest ones of one pool"
    now = KEPT_SECONDS / 2
    wakes.add(Wake("u", 9999, TRACE))
    now = KEPT_SECONDS
    assert [wake.version for wake in wakes.of("u")] == [9999]
    now = 1.5 * KEPT_SECONDS
    assert not list(wakes.of("u"))
