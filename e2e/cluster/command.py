"""Running short commands whose words matter more than their exit status."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run(
    command: Sequence[str | Path], cwd: Path | str | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and keep what it prints. A failure is the caller's to see in `returncode`.

    Raises OSError if the program cannot be started.
    """
    return subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True)
