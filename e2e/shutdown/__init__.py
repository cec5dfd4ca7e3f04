"""How workers end: each promise on a real vLLM, beside what vLLM does alone; kill -9; a storm of scale-downs."""

import sys
from pathlib import Path

# Pods without a cluster are the worker tests' own.
sys.path.append(str(Path(__file__).parents[2] / "worker_image/tests/worker"))
