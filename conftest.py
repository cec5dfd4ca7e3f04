"""Settings of all tests."""

import os

from hypothesis import settings

# No deadline: these machines are shared, and a slow moment is not a failure. On CI the examples are always the same,
# so that a change is judged by what it changed; everywhere else they are new each time.
settings.register_profile("thaw", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("thaw")
