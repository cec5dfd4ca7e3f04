"""Settings of all tests."""

import os
import signal
from collections.abc import Callable

import pytest
from hypothesis import settings

# No deadline: these machines are shared, and a slow moment is not a failure. On CI the examples are always the same,
# so that a change is judged by what it changed; everywhere else they are new each time.
settings.register_profile("vernal", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("vernal")

# A shell that runs something in the background has it ignore SIGINT, and so would everything that tests start and send
# SIGINT to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line that is seen also when the test passes."""

    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", flush=True)

    return tell
