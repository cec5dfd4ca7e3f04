"""Each kind of engine that vLLM has, frozen and thawed: a table that is a test (`python -m engines`)."""

import sys
from pathlib import Path

# Pods without a cluster are the worker tests' own.
sys.path.append(str(Path(__file__).parents[2] / "worker_image/tests/worker"))
